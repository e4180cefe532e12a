import pytest
import torch

from timm_sbs.common.products import float32_products


@pytest.fixture(autouse=True)
def as_before():
    before = torch.get_float32_matmul_precision()
    yield
    torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize('allowed', ['highest', 'high', 'medium'])
def test_what_a_caller_allows_does_not_matter_within_and_is_there_again_after(allowed):
    torch.set_float32_matmul_precision('highest')
    a, b = torch.randn(300, 200), torch.randn(200, 100)
    exact = a @ b
    torch.set_float32_matmul_precision(allowed)
    with float32_products('ieee'):
        assert torch.equal(a @ b, exact)
    assert torch.get_float32_matmul_precision() == allowed


def test_the_setting_comes_back_after_an_error():
    torch.set_float32_matmul_precision('high')
    with pytest.raises(ZeroDivisionError), float32_products('ieee'):
        1 / 0
    assert torch.get_float32_matmul_precision() == 'high'


def test_tf32_is_for_gpus_alone():
    a, b = torch.randn(300, 200), torch.randn(200, 100)
    exact = a @ b
    with float32_products('tf32'):
        assert torch.equal(a @ b, exact)
