import numpy as np

from bdfm_nnunet.reports.time_courses import time_course_figure


def test_each_voxel_has_its_curves_and_its_hidden_frames() -> None:
    rng = np.random.default_rng(0)
    courses = {"original": rng.normal(size=(3, 5)), "network": rng.normal(size=(3, 5))}
    hidden = rng.uniform(size=(3, 5)) < 0.5
    figure = time_course_figure(courses, hidden, title="epoch 4")
    assert figure.get_suptitle() == "epoch 4" and len(figure.axes) == 3
    for number, axes in enumerate(figure.axes):
        for line, name in zip(axes.lines, courses, strict=True):
            assert line.get_label() == name
            np.testing.assert_allclose(line.get_ydata(), courses[name][number])
        shaded = sorted(patch.get_x() + 0.5 for patch in axes.patches)
        np.testing.assert_allclose(shaded, np.flatnonzero(hidden[number]))
    assert [text.get_text() for text in figure.axes[0].get_legend().get_texts()] == [*courses]
