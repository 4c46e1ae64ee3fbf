"""What lies over a slice is seen in its picture."""

import io

import matplotlib
import numpy as np
import pytest
from PIL import Image

from nnunetv2_salstm.reporting.overlays import LABEL_COLOURS, Overlay, draw_overlays

MASK = np.zeros((40, 60), bool)
MASK[10:30, 20:50] = True


def pixels(png):
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"), float)


def slices(**values):
    return Overlay(np.linspace(0, 1, MASK.size).reshape(MASK.shape), "slice 1", **values)


def coloured(picture):
    return (picture.max(-1) - picture.min(-1) > 40).sum()


def test_a_plain_slice_is_grey():
    assert coloured(pixels(draw_overlays([[slices()]]))) == 0


@pytest.mark.parametrize("over", ["areas", "outlines"])
def test_masks_have_the_colour_of_their_label(over):
    picture = pixels(draw_overlays([[slices(**{over: {"LV": MASK}})]], ["RV", "LV"]))
    colour = np.array(matplotlib.colors.to_rgb(LABEL_COLOURS[1]))
    tinted = picture[picture.max(-1) - picture.min(-1) > 40]
    # Also the legend has it; of the areas the grey shines through.
    hue = tinted - tinted.min(-1, keepdims=True)
    assert (hue.argmax(-1) == colour.argmax()).mean() > 0.6


def test_an_outline_is_thinner_than_an_area():
    area, outline = (
        coloured(pixels(draw_overlays([[slices(**{over: {"LV": MASK}})]], ["LV"]))) for over in ("areas", "outlines")
    )
    assert 0 < outline < area / 3


def test_heat_is_bright_where_it_is_largest():
    picture = pixels(draw_overlays([[slices(), slices(heat=np.where(MASK, 2.0, 0.0))]]))
    left, right = np.array_split(picture, 2, axis=1)
    assert coloured(left) == 0
    assert coloured(right) > 1000
    assert coloured(pixels(draw_overlays([[slices(heat=np.zeros(MASK.shape))]]))) == 0


def test_pixels_keep_their_shape():
    """A square of 20 x 10 pixels of 1 x 2 mm is as high as it is wide."""
    image = np.zeros((40, 20))
    image[10:30, 5:15] = 1
    picture = pixels(draw_overlays([[Overlay(image, pixel=(1.0, 2.0))]]))
    black_rows, black_columns = ((picture.mean(-1) < 50).any(axis) for axis in (1, 0))
    inside = picture[np.ix_(black_rows, black_columns)].mean(-1) > 200
    assert inside.any(1).sum() == pytest.approx(inside.any(0).sum(), rel=0.03)


def test_equal_input_equal_bytes_whatever_the_style():
    first = draw_overlays([[slices(areas={"LV": MASK})], [slices()]], ["LV"], "case")
    with matplotlib.rc_context({"font.size": 30}):
        assert draw_overlays([[slices(areas={"LV": MASK})], [slices()]], ["LV"], "case") == first
