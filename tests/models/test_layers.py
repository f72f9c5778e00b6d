import torch
import torch.nn.functional as F
from support import tiny

from lavieid_adapters.models import layers


def test_linear_and_layer_norm_follow_their_inputs_dtype():
    x = torch.randn(4, 8)
    for layer in (layers.Linear(8, 6), layers.LayerNorm(8)):
        assert layer(x.bfloat16()).dtype == torch.bfloat16
        assert layer.to(torch.float8_e4m3fn)(x).dtype == torch.float32


def test_zero_init_zeroes_weight_and_bias():
    layer = layers.zero_init(layers.Linear(8, 6))
    assert torch.equal(layer(torch.randn(4, 8)), torch.zeros(4, 6))


def test_cross_attention_attends_to_the_context():
    phi = tiny.randomise(layers.CrossAttention(32, 16, num_heads=2, head_dim=8)).double()
    x, context = torch.randn(2, 5, 32, dtype=torch.float64), torch.randn(2, 7, 16, dtype=torch.float64)
    query = phi.to_query(phi.norm_query(x)).unflatten(-1, (2, 8))
    key, value = (t.unflatten(-1, (2, 8)) for t in phi.to_key_value(phi.norm_context(context)).chunk(2, -1))
    scores = torch.einsum("bnhd,blhd->bhnl", query, key) / 8**0.5
    out = torch.einsum("bhnl,blhd->bnhd", scores.softmax(-1), value).flatten(2)
    torch.testing.assert_close(phi(x, context), phi.to_out(out))
    assert not torch.allclose(phi(x, context), phi(x, context.flip(-1)))


def test_rotation_depends_on_the_difference_of_frames_alone():
    x, y = torch.randn(1, 1, 1, 2, 16, dtype=torch.float64).expand(2, 5, -1, -1, -1)
    cos, sin = layers.frame_rotation(5, 16, x)
    rotated_x, rotated_y = layers.rotate(x, cos, sin), layers.rotate(y, cos, sin)
    product = torch.einsum("fphd,gphd->fg", rotated_x, rotated_y)
    assert (product[0] - product[0, 0]).abs().max() > 0.01
    for k in range(5):
        torch.testing.assert_close(product.diagonal(k), product[0, k].expand(5 - k))


def test_causal_block_equals_masked_attention_and_sees_no_later_frame():
    block = tiny.randomise(layers.CausalBlock(32, num_heads=2)).double()
    x = torch.randn(2, 4, 3, 32, dtype=torch.float64)
    rotation = layers.frame_rotation(4, 16, x)
    qkv = block.to_query_key_value(block.norm_attention(x)).unflatten(-1, (3, 2, 16))
    query, key, value = qkv.unbind(dim=3)
    query, key = layers.rotate(query, *rotation), layers.rotate(key, *rotation)
    query, key, value = (t.flatten(1, 2).transpose(1, 2) for t in (query, key, value))
    frame = torch.arange(4).repeat_interleave(3)
    seen = F.scaled_dot_product_attention(query, key, value, attn_mask=frame[:, None] >= frame)
    y = x + block.to_out(seen.transpose(1, 2).flatten(2)).view_as(x)
    wanted = y + block.feed_forward(block.norm_feed_forward(y))
    torch.testing.assert_close(block(x, rotation), wanted)
    with torch.no_grad():  # sums in place
        torch.testing.assert_close(block(x.clone(), rotation), wanted)

    changed = x.clone()
    changed[:, 2] += 1
    difference = (block(changed, rotation) - block(x, rotation)).abs().amax(dim=(0, 2, 3))
    assert torch.equal(difference[:2], torch.zeros(2, dtype=torch.float64))
    assert (difference[2:] > 0).all()
