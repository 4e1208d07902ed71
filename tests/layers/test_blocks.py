import pytest
import torch
import torch.nn.functional as F

from studio.layers.blocks import (
    BertBlock,
    LlamaBlock,
    SelfAttention,
    dropped,
    init_transformer,
    swiglu_width,
)

X = torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(0))


def test_widths_of_the_published_models():
    widths = {768: 2048, 1024: 2816, 1280: 3584, 1536: 4096, 2048: 5632, 2560: 6912, 3200: 8704}
    assert {dim: swiglu_width(dim, 256) for dim in widths} == widths


def test_llama_block_is_two_residuals():
    block = LlamaBlock(16, 2, hidden_dim=24)
    h = X + block.attention(block.attention_norm(X), causal=True)
    gate, up = block.feed_forward.gate_up(block.feed_forward_norm(h)).chunk(2, -1)
    expected = h + block.feed_forward.down(F.silu(gate) * up)
    torch.testing.assert_close(block(X, causal=True), expected)


def test_bert_block_normalises_sums():
    block = BertBlock(16, 2, hidden_dim=24)
    y = block(X)
    torch.testing.assert_close(y.mean(-1), torch.zeros(2, 5), atol=1e-6, rtol=0)
    h = block.attention_norm(X + block.attention(X))
    torch.testing.assert_close(y, block.feed_forward_norm(h + block.feed_forward(h)))


def test_shared_key_heads_have_a_smaller_projection():
    layer = SelfAttention(16, 4, num_kv_heads=2)
    assert layer.qkv.weight.shape == (32, 16)
    assert layer(X).shape == X.shape
    with pytest.raises(ValueError, match="num_heads 3"):
        SelfAttention(16, 3)


def test_dropout_only_while_training():
    assert dropped(X, 0.5, False) is X and dropped(X, 0.0, True) is X
    torch.manual_seed(0)
    assert (dropped(X, 0.5, True) == 0).float().mean() > 0.2
    block = LlamaBlock(16, 2, hidden_dim=24, residual_dropout=0.5, attention_dropout=0.5)
    assert torch.equal(block.eval()(X), block(X))
    assert not torch.equal(block.train()(X), block(X))


def test_init_scales_what_blocks_add():
    torch.manual_seed(0)
    block = LlamaBlock(128, 2, hidden_dim=256)
    init_transformer(block, 8)
    assert 0.018 < block.attention.qkv.weight.std() < 0.022
    assert 0.0045 < block.feed_forward.down.weight.std() < 0.0055
