"""What of eqs. 2 and 3 is computed once an identity, so that a step has the least to do."""

# b batch · r routes: the m components, and the background after them if the router has one · l tokens a component
# h heads · d channels of a head · D' dim

from dataclasses import dataclass, fields, replace

from torch import Tensor


@dataclass
class PreparedIdentity:
    """All of eqs. 2 and 3 that does not depend on the video tokens, computed once an identity instead of once a step.

    With x the video token after layer norm without gain and bias, logits are `route_weight @ x + route_bias`, scores
    of a head are `(query_weight @ x) · key + key_bias`. Both weights hold the layer norms' gains and have rows of
    mean zero, so that they give the same for a token whose mean has not been taken off.
    """

    route_weight: Tensor  # b r D'
    route_bias: Tensor  # b r, float32; the lowest number where a component is masked
    visible: Tensor  # b m, float32; 0 where a component is masked
    query_weight: Tensor  # (h d) D'
    key: Tensor  # b h (m l) d, divided by the root of d
    key_bias: Tensor  # b h (m l), float32
    value: Tensor  # b h (m l) d
    out_weight: Tensor  # D' (h d)

    def select(self, index: Tensor | slice) -> "PreparedIdentity":
        """The prepared form of the batch in which sample i shows identity index[i]."""
        shared = ("query_weight", "out_weight")
        return replace(self, **{f.name: getattr(self, f.name)[index] for f in fields(self) if f.name not in shared})
