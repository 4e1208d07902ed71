import pytest
import torch

from studio.layers.token_embedding import TokenEmbedding, TokenHead

LEVELS = (2, 3, 4)
X = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(0))


def digits_of(code):
    return code % 2, code // 2 % 3, code // 6


def test_plain_table_with_special_ids():
    embedding = TokenEmbedding(24, 8, num_special=2)
    assert embedding.table.weight.shape == (26, 8)
    assert torch.equal(embedding(torch.tensor([[25]]))[0, 0], embedding.table.weight[25])


def test_digit_embedding_sums_one_row_a_digit():
    embedding = TokenEmbedding(24, 8, levels=LEVELS, num_special=2)
    table, special = embedding.table.weight, embedding.special.weight
    vectors = embedding(torch.tensor([0, 17, 23, 24, 25]))
    for row, code in enumerate((0, 17, 23)):
        a, b, c = digits_of(code)
        torch.testing.assert_close(vectors[row], table[a] + table[2 + b] + table[5 + c])
    assert torch.equal(vectors[3:], special)


def test_digit_head_is_a_product_of_small_softmaxes():
    head = TokenHead(8, 24, kind="digits", levels=LEVELS)
    logits = head(X)
    assert logits.shape == (2, 5, 24) and head.digit_logits(X).shape == (2, 5, 9)
    parts = [p.log_softmax(-1) for p in head.digit_logits(X).split(LEVELS, -1)]
    for code in range(24):
        expected = sum(p[..., d] for p, d in zip(parts, digits_of(code), strict=True))
        torch.testing.assert_close(logits.log_softmax(-1)[..., code], expected)


@pytest.mark.parametrize("kind", ["full", "digits", "digits+full"])
def test_cross_entropy_is_that_of_the_logits(kind):
    head = TokenHead(8, 24, kind=kind, levels=LEVELS, rank=3)
    targets = torch.randint(24, (2, 5), generator=torch.Generator().manual_seed(1))
    expected = -head(X).log_softmax(-1).gather(-1, targets.unsqueeze(-1)).squeeze(-1)
    torch.testing.assert_close(head.cross_entropy(X, targets), expected)
    assert head.cross_entropy(X, targets, label_smoothing=0.1).shape == (2, 5)


def test_correction_starts_at_zero():
    head = TokenHead(8, 24, kind="digits+full", levels=LEVELS, rank=3)
    head.zero_correction()
    torch.testing.assert_close(head(X), head.expand(head.digit_logits(X)))


def test_agrees_with_the_quantizer():
    from studio.layers.token_embedding import Digits
    from studio.quantizers.fsq import FiniteScalarQuantizer

    codes = torch.arange(24)
    assert torch.equal(Digits(LEVELS)(codes), FiniteScalarQuantizer(list(LEVELS)).digits(codes))


def test_wrong_use():
    with pytest.raises(ValueError, match="vocab_size 25"):
        TokenEmbedding(25, 8, levels=LEVELS)
    with pytest.raises(ValueError, match="head 'tied'"):
        TokenHead(8, 24, kind="tied")
    with pytest.raises(ValueError, match="needs token_levels"):
        TokenHead(8, 24, kind="digits")
    with pytest.raises(ValueError, match="digit logits"):
        TokenHead(8, 24).digit_logits(X)


def test_a_vector_a_place():
    placed = TokenEmbedding(24, 8, levels=[2, 3, 4], num_places=5)
    plain = TokenEmbedding(24, 8, levels=[2, 3, 4])
    plain.table.load_state_dict(placed.table.state_dict())
    ids = torch.tensor([[1, 7, 23]])
    assert placed.needs_positions and not plain.needs_positions and placed.places is not None
    rows = placed.places.weight
    assert torch.equal(placed(ids), plain(ids) + rows[:3])
    places = torch.tensor([[4, 0, 2]])
    assert torch.equal(placed(ids, places), plain(ids) + rows[places])
