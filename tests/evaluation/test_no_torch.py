import subprocess
import sys


def test_evaluation_imports_neither_torch_nor_nnunet():
    code = (
        "import sys, bdfm_nnunet.evaluation as e\n"
        "print(sorted({m.split('.')[0] for m in sys.modules} & {'torch', 'nnunetv2', 'matplotlib'}))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
