"""The precision of matrix products within blocks, and the caller's own before and after them."""
import threading

import pytest
import torch

from timm_sbs.common.products import float32_products


@pytest.fixture(autouse=True)
def as_before():
    torch.set_float32_matmul_precision('highest')
    yield
    torch.set_float32_matmul_precision('highest')


@pytest.mark.parametrize('allowed', ['highest', 'medium'])
def test_what_a_caller_allows_does_not_matter_within_and_is_there_again_after(allowed):
    torch.set_float32_matmul_precision(allowed)
    with pytest.raises(ZeroDivisionError), float32_products('ieee'):
        assert torch.get_float32_matmul_precision() == 'highest'
        1 / 0
    assert torch.get_float32_matmul_precision() == allowed


@pytest.mark.parametrize('has_cuda', [False, True])
def test_tf32_is_for_gpus_alone_and_not_for_what_is_generated_meanwhile(monkeypatch, has_cuda):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: has_cuda)
    with float32_products('tf32'):
        for _ in range(2):
            assert torch.get_float32_matmul_precision() == ('high' if has_cuda else 'highest')
            with float32_products('ieee'):
                assert torch.get_float32_matmul_precision() == 'highest'
    assert torch.get_float32_matmul_precision() == 'highest'


@pytest.mark.skipif(not hasattr(torch.backends.cuda.matmul, 'fp32_precision'), reason='newer settings: torch 2.9')
def test_settings_of_the_newer_kind_come_back_too():
    torch.backends.cuda.matmul.fp32_precision = 'tf32'
    with float32_products('ieee'):
        assert torch.backends.cuda.matmul.fp32_precision == 'ieee'
    assert torch.backends.cuda.matmul.fp32_precision == 'tf32'


def test_threads_wait_for_each_other():
    torch.set_float32_matmul_precision('high')
    seen = []

    def second():
        with float32_products('ieee'):
            seen.append(torch.get_float32_matmul_precision())

    thread = threading.Thread(target=second)
    with float32_products('ieee'):
        thread.start()
        thread.join(timeout=0.1)
        assert not seen
        with float32_products('ieee'):
            pass
        assert torch.get_float32_matmul_precision() == 'highest'
    thread.join()
    assert seen == ['highest'] and torch.get_float32_matmul_precision() == 'high'
