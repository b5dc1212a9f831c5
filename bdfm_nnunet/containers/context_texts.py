"""The texts of a container's folder: Dockerfile, Apptainer definition, entry point, page, licences and citations."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bdfm_nnunet.containers.challenge_forms import ENDINGS
from bdfm_nnunet.containers.container_settings import MODEL, SETTINGS, ContainerSettings
from bdfm_nnunet.dataset_conversion.releases import KNOWN_RELEASES
from bdfm_nnunet.sharing.weight_description import WeightDescription

_ENTRYPOINT = """#!/bin/sh
# Predicts the cases of a folder: entrypoint IN OUT
here=$(CDPATH= cd -- "$(dirname -- "$0")" && pwd -P) || exit 2
python=python3
[ -r "$here/local_python" ] && [ -x "$(cat "$here/local_python")" ] && python=$(cat "$here/local_python")
exec "${BDFM_PYTHON:-$python}" "$here/predict.py" "$@"
"""
_PREDICT = '''#!/usr/bin/env python3
"""Runs the model that lies beside this file."""

import os
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[0] = os.path.join(HERE, "package")
from bdfm_nnunet.containers.entry import main  # noqa: E402

sys.exit(main(HERE, sys.argv[1:]))
'''
_DOCKERFILE = """# docker build -t IMAGE .
# docker run --rm --network none --gpus all{memory} -v IN:/input:ro -v OUT:/output IMAGE
FROM python:{python}-slim
ENV PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1 HOME=/tmp
WORKDIR /app
COPY requirements-torch.txt requirements.txt /app/
RUN pip install -r requirements-torch.txt && pip install --no-deps -r requirements.txt
COPY . /app/
RUN python -m compileall -q /app/package && chmod -R a+rX /app
ENTRYPOINT ["/app/entrypoint"]
CMD [{command}]
"""
_APPTAINER = """# apptainer build --fakeroot {name}.sif Apptainer.def
# apptainer run --nv --net --network none --bind IN:/input:ro,OUT:/output {name}.sif /input /output
Bootstrap: docker
From: python:{python}-slim

%files
    requirements-torch.txt /app/requirements-torch.txt
    requirements.txt /app/requirements.txt
    container.json /app/container.json
    entrypoint /app/entrypoint
    predict.py /app/predict.py
    model /app/model
    package /app/package
    README.md /app/README.md
    LICENCES.md /app/LICENCES.md{rules}

%environment
    export PYTHONUNBUFFERED=1 HOME=/tmp

%post
    pip install --no-cache-dir -r /app/requirements-torch.txt
    pip install --no-cache-dir --no-deps -r /app/requirements.txt
    python -m compileall -q /app/package
    chmod -R a+rX /app

%runscript
    exec /app/entrypoint "$@"
"""


@dataclass(frozen=True, kw_only=True)
class ContextFacts:
    """What the texts are made of.

    Attributes:
        settings: of the container.
        weights: description of the first fold.
        requirements: file to its lines.
        python: version of the interpreter, `3.11` say.
        verdicts: `name`, `answer` and `why` of the challenge's rules on weights for each fold.
        licences: release of the training data to its licence; None where that is not stated.
        citations: what to cite.
        labels: name to value or values, of the model.
    """

    settings: ContainerSettings
    weights: WeightDescription
    requirements: Mapping[str, Sequence[str]]
    python: str
    verdicts: Sequence[Mapping[str, Any]]
    licences: Mapping[str, str | None]
    citations: Sequence[str]
    labels: Mapping[str, Any]


def context_files(facts: ContextFacts, *, rules: bool = False) -> dict[str, str]:
    """Return name to content of the texts."""
    form = facts.settings.form
    command = "" if form.flags else '"/input", "/output"'
    memory = f" --memory {form.memory_gib:g}g" if form.memory_gib else ""
    post = "\n    postprocessing.json /app/postprocessing.json" if rules else ""
    return {
        "Dockerfile": _DOCKERFILE.format(python=facts.python, command=command, memory=memory),
        "Apptainer.def": _APPTAINER.format(python=facts.python, name=form.name, rules=post),
        ".dockerignore": "local_python\n**/__pycache__\ncheck\n",
        "entrypoint": _ENTRYPOINT,
        "predict.py": _PREDICT,
        "README.md": _page(facts),
        "LICENCES.md": _licences(facts),
        **{name: "\n".join(lines) + "\n" for name, lines in facts.requirements.items()},
    }


def _page(facts: ContextFacts) -> str:
    settings, form = facts.settings, facts.settings.form
    release = KNOWN_RELEASES.get(form.release)
    optional = f"; a case may lack {', '.join(settings.optional)}" if settings.optional else ""
    labels = f", labels {_told_labels(facts.labels)}" if form.result == "segmentation" else ""
    ending = ENDINGS[form.result]
    lines = [
        f"# {form.title}",
        "",
        f"A model of {facts.weights.trainer or 'an unnamed trainer'}, folds {', '.join(settings.folds)}, written by "
        f"bdfm_nnunet {settings.version}.",
        "",
        "## Run",
        "",
        "```",
        "./entrypoint IN OUT                    # here, without any container",
        *_commands(form.name, flags=form.flags),
        "```",
        "",
        f"- images: {', '.join(settings.channels)}, found by their names, in folders of any name and level{optional}",
        f"- result: {form.result}{labels}, called after the whole name of the case's folder: `CASE{ending}`",
        f"- exit code: 0 done, 2 nothing could be predicted, {form.partial_exit} if some cases could not be",
        "- a case that cannot be used is named on the log with the reason, and the others are predicted",
        "",
        "## The challenge",
        "",
        f"- {form.interface}",
        *[f"- {text}" for text in _limits(form)],
        f"- source: {form.told_source}",
        *[f"- {note}" for note in form.notes],
        *([f"- labels and channels are those of the release {release.name}"] if release else []),
        "",
        "## May these weights be used?",
        "",
        *(dict.fromkeys(f"- {each['name']}: {each['answer']} ({_line(each['why'])})" for each in facts.verdicts)
          or ["- this form has no rules on weights"]),
        "- ask the organisers before you submit",
        "",
        "## Files",
        "",
        f"`{MODEL}/` weights and plans, `package/` the code, `{SETTINGS}` how both belong together, "
        "`requirements*.txt` the pinned packages (the second file is installed without dependencies: it lists all that "
        "is loaded). "
        "`local_python` is for running it here, and does not go into an image.",
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def _commands(name: str, *, flags: Sequence[str]) -> list[str]:
    if flags:
        images = " ".join(f"--{flag} {flag}.nii.gz" for flag in flags)
        return [
            f"./entrypoint {images} --output FILE",
            f"apptainer build --fakeroot --arch amd64 {name}.sif Apptainer.def",
        ]
    return [
        "docker build -t IMAGE .",
        "docker run --rm --network none --gpus all -v IN:/input:ro -v OUT:/output IMAGE",
    ]


def _limits(form: Any) -> list[str]:
    told = [f"it runs on {form.hardware}"] if form.hardware else []
    if form.memory_gib:
        told.append(f"memory: {form.memory_gib:g} GiB; one case at a time is in it, and there are no further processes")
    if form.hours:
        cases = f" for {form.cases} cases" if form.cases else ""
        told.append(f"time: {form.hours:g} hours{cases}")
    if form.seconds:
        told.append(f"that is {form.seconds:.0f} s a case" if form.hours else f"time: {form.seconds:.0f} s a case")
    return told


def _licences(facts: ContextFacts) -> str:
    lines = [
        "# Licences",
        "",
        "- code (`package/`): Apache-2.0; the packages in requirements*.txt have licences of their own",
        f"- weights: {_line(facts.weights.licence) or 'not stated'}",
        *[f"- training data {_line(name)}: {_line(told or 'not stated')}" for name, told in facts.licences.items()],
        "",
        "# Cite",
        "",
        *[f"- {_line(text)}" for text in facts.citations],
    ]
    return "\n".join(lines) + "\n"


def _told_labels(labels: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in labels.items())


def _line(text: str) -> str:
    return re.sub(r"\s+", " ", "".join(letter if letter.isprintable() else " " for letter in text)).strip()
