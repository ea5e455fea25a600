"""A sample of ONNX's own backend suite through the doors of the tool."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "tools"))
import backend_suite

SAMPLE = (
    r"^test_(abs|attention_4d|averagepool_2d_ceil|bernoulli_expanded|constantofshape_float_ones|"
    r"conv_with_autopad_same|convinteger_with_padding|convtranspose_1d|cumsum_1d|dynamicquantizelinear|"
    r"einsum_batch_matmul|gather_0|gemm_all_attributes|gru_seq_length|identity_sequence|if_seq|"
    r"layer_normalization_2d_axis0|loop11|lstm_batchwise|matmulinteger|maxpool_3d_default|"
    r"nonmaxsuppression_two_classes|nonzero_example|optional_get_element_sequence|qlinearconv|"
    r"range_int32_type_negative_delta|reduce_sum_empty_set|resize_upsample_sizes_nearest|scan_sum|"
    r"sequence_insert_at_back|split_zero_size_splits_opset18|strnormalizer_nostopwords_nochangecase|"
    r"topk|unique_sorted_with_axis|slice_neg|tfidfvectorizer_tf_batch_onlybigrams_levelempty)$"
)


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    folder = tmp_path_factory.mktemp("suite")
    yield list(backend_suite.cases(folder, ["node"], SAMPLE))
    backend_suite.close()


def test_the_sample_is_understood(sample):
    assert len(sample) > 25
    for case in sample:
        backend_suite.inspect(case)


RUNTIMES_OWN = ("NOT_IMPLEMENTED", "unsupported type", "not supported", "not a registered function")


def test_the_sample_is_measured_where_the_runtime_has_it(sample):
    refused = {}
    for case in sample:
        try:
            backend_suite.verify(case)
        except backend_suite.InputError as error:
            if not any(why in str(error) for why in RUNTIMES_OWN):
                refused[case.name] = str(error)
    assert refused == {}


def test_every_model_has_one_result():
    found = backend_suite.run("inspect", r"^test_(abs|acos)$", ["node"])
    assert found == {name: {"result": "understood"} for name in ("test_abs", "test_acos")}
