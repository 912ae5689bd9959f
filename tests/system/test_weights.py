import torch

from harness.system.weights import fingerprint


def test_the_hash_is_of_names_and_values_in_whatever_order_and_layout():
    a, b = torch.arange(6.0).reshape(2, 3), torch.ones(4, dtype=torch.bfloat16)
    first = fingerprint({"a": a, "b": b})
    assert first == fingerprint({"b": b, "a": a.T.contiguous().T})
    assert first != fingerprint({"b": a, "a": b})
    assert first != fingerprint({"a": a + 1e-6, "b": b})
    assert fingerprint({"empty": torch.zeros(0), "one": torch.tensor(1)}) == fingerprint(
        {"empty": torch.zeros(0), "one": torch.tensor(1)}
    )
