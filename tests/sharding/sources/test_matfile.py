"""MATLAB's files, against scipy's writer."""

from __future__ import annotations

import io

import numpy as np
import pytest
from scipy.io import savemat

from alexnet_fast.sharding.sources.matfile import read_structs


@pytest.mark.parametrize("packed", [False, True])
def test_structs_of_a_matlab_file_are_those_that_scipy_writes(packed: bool) -> None:
    """Of fields that ILSVRC's have too, one is an array and one is empty."""
    fields = [(name, object) for name in ("ILSVRC2010_ID", "WNID", "words", "num_children", "children")]
    rows = [(number, f"n{number:08d}", "Wörter, 雪", 0.5 * number, np.arange(number)) for number in range(300)]
    file = io.BytesIO()
    savemat(file, {"other": np.eye(3), "synsets": np.array(rows, fields)}, do_compression=packed)
    found = read_structs(file.getvalue(), "synsets")
    assert [tuple(row.values())[:4] for row in found] == [row[:4] for row in rows]
    assert [row["children"] for row in found[:3]] == [None, 0.0, None]
    with pytest.raises(ValueError, match="no structs other"):
        read_structs(file.getvalue(), "other")
