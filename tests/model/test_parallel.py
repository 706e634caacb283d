"""What is sent between processes, by formulas against the paper's numbers; which networks can be divided."""

from pathlib import Path

import pytest

from alexnet_fast.errors import InputError
from alexnet_fast.recipes import make_config
from alexnet_fast.training import placement
from tools import scaling


def test_the_page_on_scaling_holds_the_tables_of_its_formulas() -> None:
    page = Path(scaling.__file__).parents[1] / "docs" / "scaling.md"
    assert scaling.tables() in page.read_text(encoding="utf-8")


def test_the_formulas_on_paper() -> None:
    """By hand: of the published net, 128 images a GPU."""
    net = scaling.net_of(make_config("paper"), 1000, 224)
    assert net == scaling.Net(60_965_224, 2_334_080, net.convolution_work, 60_672, 17_408, 1000)
    assert net.convolution_work == pytest.approx(665_784_864 / 724_406_816)  # multiply-adds: facts of the paper's net
    assert scaling.sent(net, "data", 8, 1024, (4, 4)).bytes == 2 * 7 / 8 * 60_965_224 * 4
    assert scaling.sent(net, "towers", 2, 256, (2, 2)).bytes == 256 * (21_632 + 4608 + 2048 + 2048 + 250) * 2 * 2
    hybrid = scaling.sent(net, "hybrid", 2, 256, (2, 2))
    assert (hybrid.gradients, hybrid.activations) == (2_334_080 * 2, 256 * (9216 + 4096 + 4096 + 1000) * 2)
    slow = scaling.Link("", 1e9, 0.0)
    assert scaling.step_seconds(net, "data", 1, 128, (4, 4), slow, 16_000) == 0.008
    expected = 0.008 / 3 + 2 * 60_965_224 / 1e9  # after the forward pass nothing but gradients
    assert scaling.step_seconds(net, "data", 2, 256, (2, 2), slow, 16_000) == pytest.approx(expected)


def test_what_cannot_be_shared_is_refused() -> None:
    for message, overrides in {
        "arch is bn; it must be paper or sixconv with parallel towers": {"arch": "bn"},
        "lrn is all; it must be towers or none with parallel towers": {"lrn": "all"},
        "precision is fp16; it must be bf16 or fp32 with parallel towers": {"precision": "fp16"},
        "parallel is rows; it must be data, towers or hybrid": {"parallel": "rows"},
    }.items():
        with pytest.raises(InputError, match=message):
            make_config("paper", **{"parallel": "towers", **overrides})
    with pytest.raises(InputError, match="arch is paper; it must be bn with sync_bn"):
        make_config("paper", sync_bn=True)
    with pytest.raises(InputError, match=r"^parallel towers needs exactly 2 processes, one a tower; there are 3\. Use"):
        placement.check_processes(make_config("paper", parallel="towers"), 3)
    with pytest.raises(InputError, match=r"^parallel hybrid splits 2 hidden units over 4 processes\. Use at most 2"):
        placement.check_processes(make_config("paper", parallel="hybrid", hidden=2), 4)
