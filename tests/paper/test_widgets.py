"""The slider over drawn frames."""

import matplotlib.pyplot as plt
import pytest

from ddcore.paper import widgets


def draw(value: float) -> plt.Figure:
    figure, axes = plt.subplots(figsize=(1, 1))
    axes.plot([0, value])
    return figure


class TestFrames:
    @pytest.fixture
    def box(self):
        frames = [(f"after <{step}>", f'at "{step}"', draw(step)) for step in range(3)]
        return widgets.frames("step", frames)

    def test_a_slider_is_linked_to_a_stack_of_pages(self, box):
        slider, stack = box.children
        assert slider.description == "step"
        assert (slider.min, slider.max) == (0, 2)
        assert stack.selected_index == 0
        assert len(stack.children) == 3

    def test_a_page_carries_its_picture_and_texts_escaped(self, box):
        page = box.children[1].children[1].value
        assert 'alt="at &quot;1&quot;"' in page
        assert "after &lt;1&gt;" in page
        assert 'src="data:image/png;base64,' in page

    def test_figures_are_closed(self, box):
        assert plt.get_fignums() == []

    def test_a_frame_without_an_alternative_text_is_refused(self):
        figure = draw(1)
        with pytest.raises(ValueError, match="alternative text"):
            widgets.frames("step", [("caption", " ", figure)])
        plt.close(figure)
