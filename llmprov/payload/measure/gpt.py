"""A decoder-only transformer as language models have it: pre-norm blocks, causal attention, tied embeddings.

Written here so that what is measured is the same everywhere and needs torch only.
"""

from __future__ import annotations

from typing import Any, Dict, NamedTuple


class Size(NamedTuple):
    """A model and its batch. `context` is tokens a sequence, `batch` sequences a step."""

    name: str
    layers: int
    width: int
    heads: int
    context: int
    vocabulary: int
    batch: int

    def parameters(self) -> int:
        """How many parameters there are: weights, biases of none, norms, embeddings once (they are tied)."""
        block = 12 * self.width**2 + 2 * self.width
        return self.layers * block + self.width + (self.vocabulary + self.context) * self.width

    def flops_per_token(self) -> int:
        """Floating-point operations to train on one token, forward and backward.

        6 a parameter that is multiplied with the token, and 12 * layers * width * context for attention, which is
        counted whole, as if it were not causal. Source: Chowdhery et al., "PaLM", 2022, appendix B, where model FLOPs
        utilisation is defined. Position embeddings and norms multiply nothing; the vocabulary counts once, as the
        output layer.
        """
        multiplied = self.layers * 12 * self.width**2 + self.vocabulary * self.width
        return 6 * multiplied + 12 * self.layers * self.width * self.context

    def bytes_needed(self) -> int:
        """About what training takes, in bytes: to choose a size by, not to rely on.

        16 a parameter (weight, gradient and Adam's two moments in fp32); 34 a token, layer and width for activations in
        16 bit (Korthikanti et al., 2022, with attention that keeps no scores); 12 a logit in 16 bit and twice in fp32.
        """
        tokens = self.batch * self.context
        return 16 * self.parameters() + 34 * tokens * self.layers * self.width + 12 * tokens * self.vocabulary


#: From the largest to the smallest. The shapes are those of the GPT-3 paper (Brown et al., 2020, table 2.1) up to XL;
#: `mini` is for small cards, `tiny` for processors.
SIZES: Dict[str, Size] = {
    size.name: size
    for size in (
        Size("1b", 24, 2048, 16, 2048, 50304, 8),
        Size("large", 24, 1536, 16, 1024, 50304, 8),
        Size("medium", 24, 1024, 16, 1024, 50304, 8),
        Size("small", 12, 768, 12, 1024, 50304, 8),
        Size("mini", 6, 512, 8, 512, 50304, 8),
        Size("tiny", 2, 128, 4, 128, 2048, 8),
    )
}


def build(torch: Any, size: Size, device: Any) -> Any:
    """The model on `device`; from tokens (batch, context) it makes logits (batch, context, vocabulary)."""
    nn, functional = torch.nn, torch.nn.functional

    module: Any = nn.Module

    class Block(module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            width = size.width
            self.before_attention = nn.LayerNorm(width, bias=False)
            self.queries_keys_values = nn.Linear(width, 3 * width, bias=False)
            self.out = nn.Linear(width, width, bias=False)
            self.before_mlp = nn.LayerNorm(width, bias=False)
            self.up = nn.Linear(width, 4 * width, bias=False)
            self.down = nn.Linear(4 * width, width, bias=False)

        def forward(self, x: Any) -> Any:
            batch, context, width = x.shape
            parts = self.queries_keys_values(self.before_attention(x)).split(width, dim=2)
            q, k, v = (part.view(batch, context, size.heads, -1).transpose(1, 2) for part in parts)
            attended = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + self.out(attended.transpose(1, 2).reshape(batch, context, width))
            return x + self.down(functional.gelu(self.up(self.before_mlp(x)), approximate="tanh"))

    class Gpt(module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.tokens = nn.Embedding(size.vocabulary, size.width)
            self.positions = nn.Embedding(size.context, size.width)
            self.blocks = nn.ModuleList([Block() for _ in range(size.layers)])
            self.norm = nn.LayerNorm(size.width, bias=False)
            self.head = nn.Linear(size.width, size.vocabulary, bias=False)
            self.head.weight = self.tokens.weight

        def forward(self, tokens: Any) -> Any:
            places = torch.arange(tokens.shape[1], device=tokens.device)
            x = self.tokens(tokens) + self.positions(places)
            for block in self.blocks:
                x = block(x)
            return self.head(self.norm(x))

    with torch.device(device):
        model = Gpt()
    for parameter in model.parameters():
        if parameter.dim() > 1:
            # Source of 0.02: Radford et al., "Language models are unsupervised multitask learners", 2019.
            torch.nn.init.normal_(parameter, std=0.02)
    return model


def loss_of(torch: Any, model: Any, batch: Any) -> Any:
    """Next-token cross-entropy over the whole vocabulary, in nats; `batch` is (sequences, context + 1) tokens."""
    logits = model(batch[:, :-1])
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), batch[:, 1:].flatten())
