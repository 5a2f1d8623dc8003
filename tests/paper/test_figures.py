"""Figures drawn from records show what they are said to show."""

from types import SimpleNamespace

import matplotlib.pyplot as plt
import pytest
import torch

from ddcore.distilled import DistilledData
from ddcore.paper import figures

META = {"mean": [0.5], "std": [0.25], "classes": ["0", "1", "a ship"]}


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


class TestPicture:
    def test_undoes_the_normalisation_and_clips(self):
        image = torch.tensor([[[0.0, 1.0], [3.0, -3.0]]])
        expected = torch.tensor([[0.5, 0.75], [1.0, 0.0]])
        assert figures.picture(image, META).equal(expected)

    def test_puts_colours_last(self):
        meta = {"mean": [0.0, 0.0, 0.0], "std": [1.0, 1.0, 1.0]}
        image = torch.rand(3, 2, 5)
        assert figures.picture(image, meta).equal(image.permute(1, 2, 0))


class TestTiles:
    @pytest.mark.parametrize("channels", [1, 3])
    def test_images_in_their_places_each_in_a_frame(self, channels):
        meta = {"mean": [0.5] * channels, "std": [0.25] * channels}
        images = torch.linspace(-2, 2, 2 * 3 * channels * 4 * 5).view(2, 3, channels, 4, 5)
        found = figures.tiles(images, meta)
        assert found.shape[:2] == (12, 21)
        assert found[7:11, 15:20].equal(figures.picture(images[1, 2], meta))
        assert (found[[0, 5, 6, 11]] == 1).all() and (found[:, [0, 6, 7, 20]] == 1).all()


class TestDistilledImages:
    def test_a_row_for_each_step_and_the_first_image_of_each_class(self):
        images = torch.arange(12.0).div(12).view(2, 6, 1, 1, 1)  # 2 steps, 2 images a class
        labels = torch.tensor([[0, 0, 1, 1, 2, 2]] * 2)
        lrs = torch.tensor([[0.5, 0.25], [0.125, 0.0625]])
        figure = figures.distilled_images(DistilledData(images, labels, lrs, meta=META), [1])
        (axis,) = figure.axes
        (row,) = axis.get_yticklabels()
        assert row.get_text() == "step 1\nrates\n0.2500\n0.0625"
        columns = axis.get_xticklabels()
        assert [column.get_text() for column in columns] == ["label 0", "label 1", "a ship"]
        drawn = torch.tensor(axis.images[0].get_array()[1, axis.get_xticks().astype(int)])
        assert torch.allclose(drawn, 0.5 + 0.25 * images[1, ::2].flatten())


class TestProgress:
    def test_the_better_of_the_last_and_the_mean_and_what_was_kept(self):
        history = [
            {"step": 0, "accuracy": 0.1},
            {"step": 5, "accuracy": 0.5, "accuracy_of_mean": 0.75},
            {"step": 9, "accuracy": 0.25, "accuracy_of_mean": 0.125},
        ]
        record = SimpleNamespace(distillation={"history": history, "best_step": 5})
        figure = figures.progress(record, paper=93.76)
        curve, kept, paper = figure.axes[0].lines
        assert list(curve.get_xdata()) == [0, 5, 9]
        assert list(curve.get_ydata()) == [10, 75, 25]
        assert (list(kept.get_xdata()), list(kept.get_ydata())) == ([5], [75])
        assert paper.get_label() == "the paper's test accuracy, 93.76 %"


class TestTrainingStep:
    def test_three_panels(self):
        figure = figures.training_step(
            [0.125, 0.5, 0.75], 1, torch.rand(6, 1, 5, 5), torch.eye(3), ("0", "1", "2")
        )
        accuracy, filters, answers = figure.axes
        assert list(accuracy.lines[0].get_ydata()) == [12.5, 50]
        assert accuracy.get_title() == "50.0 % of the test images"
        assert filters.images[0].get_array().shape == (14, 21)
        assert [text.get_text() for text in answers.get_xticklabels()] == ["0", "1", "2"]
