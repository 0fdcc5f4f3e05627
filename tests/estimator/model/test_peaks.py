"""Peaks are those of SciPy, to the last bit."""

from __future__ import annotations

import numpy as np
import scipy.signal
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from estimator.domain import Float64Array
from estimator.model.peaks import find_peaks, peak_edges

CURVES = arrays(np.float64, st.integers(1, 80), elements=st.integers(0, 12).map(float)) | arrays(
    np.float64, st.integers(1, 80), elements=st.floats(0.0, 1e9)
)


@given(CURVES, st.sampled_from([0.0, 1.0, 3.0, 1e4]), st.integers(1, 12), st.floats(0.05, 0.95))
def test_peaks_and_their_edges_are_those_of_scipy(
    values: Float64Array, prominence: float, distance: int, rel_height: float
) -> None:
    values = values + 1e-3 * np.arange(len(values))  # no two tops alike: which of equals stays is anyone's choice
    expected, _ = scipy.signal.find_peaks(values, prominence=prominence, distance=distance)
    found = find_peaks(values, prominence=prominence, distance=distance)
    np.testing.assert_array_equal(found, expected)
    _, _, left, right = scipy.signal.peak_widths(values, expected, rel_height=rel_height)
    np.testing.assert_allclose(np.array(peak_edges(values, found, rel_height)), [left, right], rtol=1e-12)


@given(arrays(np.float64, st.integers(1, 60), elements=st.integers(0, 4).map(float)))
def test_a_flat_top_has_one_peak_in_its_middle(values: Float64Array) -> None:
    expected, _ = scipy.signal.find_peaks(values)
    np.testing.assert_array_equal(find_peaks(values, prominence=0.0, distance=1), expected)
