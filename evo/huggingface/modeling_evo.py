"""A language model cut out of a larger one, whose blocks may differ in width.

`evo export` puts this file beside the weights. It needs torch and transformers only:

    AutoModelForCausalLM.from_pretrained(directory, trust_remote_code=True)

It computes what litgpt's GPT does, under litgpt's tensor names.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import DynamicCache, GenerationMixin, PreTrainedConfig, PreTrainedModel
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import CausalLMOutputWithPast


class EvoConfig(PreTrainedConfig):
    """The shape of a network. Sizes of blocks are lists, an entry for each block.

    Args:
        vocab_size: rows of the embedding.
        hidden_size: residual channels.
        head_dim: channels of an attention head, of which the first `rotary_dim` are rotated.
        rotary_dim: an even number.
        query_groups: key and value heads of each block.
        queries_per_group: query heads of one key and value head.
        intermediate_sizes: MLP neurons of each block.
        max_position_embeddings: the longest sequence it was made for.
        rope_parameters: `rope_type` (default, linear or llama3), `rope_theta`, and what the type
            asks for, as transformers names them.
        local_rope_theta: a second base, without scaling; None where there is none.
        local_rope: for each block whether its base is the second one.
        attention_window: how many tokens a query sees, itself included, in blocks with a window.
            (transformers' caches would drop keys where it was called `sliding_window`.)
        windows: for each block whether it has a window.
        attention_scale: what the products of queries and keys are multiplied with.
        attention_softcap: c in c * tanh(x / c), which attention scores x become; None for none.
        logit_softcap: the same for logits.
        embedding_scale: what embeddings are multiplied with.
        norm: LayerNorm or RMSNorm.
        unit_offset: whether norms multiply with their weight + 1.
        norm_eps: added to the variance.
        pre_norm: whether attention and MLP are given the residual stream normalised.
        post_norm: whether what they give is normalised.
        query_key_norm: none, or over the channels of each head, or over those of all heads.
        parallel_residual: whether attention and MLP see the same residual stream.
        hidden_act: of the MLP, as in transformers.
        gated_mlp: whether the activation multiplies a second projection.
        attention_bias: of queries, keys and values.
        bias: of all other projections in a block.
        tie_word_embeddings: whether the output head is the embedding.
        use_cache: whether `forward` returns keys and values.
    """

    model_type = "evo"
    keys_to_ignore_at_inference = ["past_key_values", "cache"]

    def __init__(
        self,
        vocab_size: int = 64,
        hidden_size: int = 8,
        head_dim: int = 8,
        rotary_dim: int = 8,
        query_groups: Sequence[int] = (1,),
        queries_per_group: int = 1,
        intermediate_sizes: Sequence[int] = (8,),
        max_position_embeddings: int = 2048,
        rope_parameters: dict[str, Any] | None = None,
        local_rope_theta: float | None = None,
        local_rope: Sequence[bool] | None = None,
        attention_window: int | None = None,
        windows: Sequence[bool] | None = None,
        attention_scale: float = 8**-0.5,
        attention_softcap: float | None = None,
        logit_softcap: float | None = None,
        embedding_scale: float = 1.0,
        norm: str = "RMSNorm",
        unit_offset: bool = False,
        norm_eps: float = 1e-5,
        pre_norm: bool = True,
        post_norm: bool = False,
        query_key_norm: str = "none",
        parallel_residual: bool = False,
        hidden_act: str = "silu",
        gated_mlp: bool = True,
        attention_bias: bool = False,
        bias: bool = False,
        tie_word_embeddings: bool = False,
        use_cache: bool = True,
        **kwargs: Any,
    ) -> None:
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
        self.head_dim = head_dim
        self.rotary_dim = rotary_dim
        self.query_groups = list(query_groups)
        self.queries_per_group = queries_per_group
        self.intermediate_sizes = list(intermediate_sizes)
        self.max_position_embeddings = max_position_embeddings
        self.rope_parameters = rope_parameters or {"rope_type": "default", "rope_theta": 10000.0}
        self.local_rope_theta = local_rope_theta
        self.local_rope = list(local_rope or [False] * len(self.query_groups))
        self.attention_window = attention_window
        self.windows = list(windows or [False] * len(self.query_groups))
        self.attention_scale = attention_scale
        self.attention_softcap = attention_softcap
        self.logit_softcap = logit_softcap
        self.embedding_scale = embedding_scale
        self.norm = norm
        self.unit_offset = unit_offset
        self.norm_eps = norm_eps
        self.pre_norm = pre_norm
        self.post_norm = post_norm
        self.query_key_norm = query_key_norm
        self.parallel_residual = parallel_residual
        self.hidden_act = hidden_act
        self.gated_mlp = gated_mlp
        self.attention_bias = attention_bias
        self.bias = bias
        self.use_cache = use_cache
        super().__init__(tie_word_embeddings=tie_word_embeddings, **kwargs)

    # What other code asks every config for; where blocks differ, of the widest.

    @property
    def num_hidden_layers(self) -> int:
        """The number of blocks."""
        return len(self.query_groups)

    @property
    def num_key_value_heads(self) -> int:
        """Key and value heads of the widest block."""
        return max(self.query_groups)

    @property
    def num_attention_heads(self) -> int:
        """Query heads of the widest block."""
        return self.num_key_value_heads * self.queries_per_group

    @property
    def intermediate_size(self) -> int:
        """MLP neurons of the widest block."""
        return max(self.intermediate_sizes)


def norm_of(config: EvoConfig, size: int) -> nn.Module:
    """A normalisation of the config's kind."""
    kind = OffsetRMSNorm if config.unit_offset else getattr(nn, config.norm)
    return kind(size, eps=config.norm_eps)


class OffsetRMSNorm(nn.RMSNorm):
    """An RMSNorm whose weight is stored less one."""

    def forward(self, x: Tensor) -> Tensor:
        normed = functional.rms_norm(x.float(), self.normalized_shape, None, self.eps)
        return (normed * (1 + self.weight.float())).to(x.dtype)


def softcapped(x: Tensor, cap: float | None) -> Tensor:
    """Scores or logits kept between -cap and cap."""
    return x if cap is None else cap * torch.tanh(x / cap)


def rotary_frequencies(config: EvoConfig, device: torch.device, local: bool = False) -> Tensor:
    """By how much each pair of channels turns per token, in radians, shape [rotary_dim / 2]."""
    rope, size = config.rope_parameters, config.rotary_dim
    exponents = torch.arange(0, size, 2, device=device).float() / max(1, size)
    if local and config.local_rope_theta is not None:
        return 1.0 / config.local_rope_theta**exponents
    frequencies = 1.0 / rope["rope_theta"] ** exponents
    if rope["rope_type"] == "default":
        return frequencies
    slow = frequencies / rope["factor"]
    if rope["rope_type"] == "linear":
        return slow
    # Llama 3: long waves are slowed down, short ones are not, and those in between are blended.
    turns = rope["original_max_position_embeddings"] * frequencies / (2 * math.pi)
    low, high = rope["low_freq_factor"], rope["high_freq_factor"]
    share = ((turns - low) / (high - low)).clamp(0, 1)
    return slow + share * (frequencies - slow)


def rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """The first channels of every head turned, pairs being half of them apart (Su et al. 2021).

    Args:
        x: shape [B, heads, T, head_dim].
        cos: shape [B, 1, T, rotary_dim].
        sin: the same.
    """
    turning, rest = x.split([cos.size(-1), x.size(-1) - cos.size(-1)], dim=-1)
    first, second = turning.chunk(2, dim=-1)
    turned = turning * cos + torch.cat([-second, first], dim=-1) * sin
    return torch.cat([turned.to(x.dtype), rest], dim=-1)


class Attention(nn.Module):
    """Causal attention with grouped queries."""

    def __init__(self, config: EvoConfig, index: int) -> None:
        super().__init__()
        self.index, self.scale, self.head_dim = index, config.attention_scale, config.head_dim
        self.softcap = config.attention_softcap
        self.groups = config.query_groups[index]
        self.heads = self.groups * config.queries_per_group
        queries, keys = self.heads * self.head_dim, self.groups * self.head_dim
        self.qkv = nn.Linear(config.hidden_size, queries + 2 * keys, bias=config.attention_bias)
        self.proj = nn.Linear(queries, config.hidden_size, bias=config.bias)
        self.norm_each = config.query_key_norm == "head"
        if config.query_key_norm != "none":
            self.norm_q = norm_of(config, self.head_dim if self.norm_each else queries)
            self.norm_k = norm_of(config, self.head_dim if self.norm_each else keys)
        self.norm_all = config.query_key_norm == "heads"

    def forward(
        self,
        x: Tensor,
        cos: Tensor,
        sin: Tensor,
        mask: Tensor | None,
        cache: Any,
        cache_position: Tensor,
    ) -> Tensor:
        keys = self.groups * self.head_dim
        q, k, v = self.qkv(x).split([self.heads * self.head_dim, keys, keys], dim=-1)
        if self.norm_all:
            q, k = self.norm_q(q), self.norm_k(k)
        q, k, v = (part.unflatten(-1, (-1, self.head_dim)).transpose(1, 2) for part in (q, k, v))
        if self.norm_each:
            q, k = self.norm_q(q), self.norm_k(k)
        q, k = rotated(q, cos, sin), rotated(k, cos, sin)
        if cache is not None:
            k, v = cache.update(k, v, self.index, {"cache_position": cache_position})
        if self.softcap is not None:
            attended = self._softcapped(q, k, v, mask)
        else:
            attended = functional.scaled_dot_product_attention(
                q,
                k,
                v,
                attn_mask=mask,
                is_causal=mask is None and q.size(2) > 1,
                scale=self.scale,
                enable_gqa=self.heads > self.groups,
            )
        return self.proj(attended.transpose(1, 2).flatten(2))

    def _softcapped(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        """Attention whose scores are capped before the softmax, which torch has no kernel for."""
        each = self.heads // self.groups
        k, v = k.repeat_interleave(each, dim=1), v.repeat_interleave(each, dim=1)
        scores = softcapped(q @ k.mT * self.scale, self.softcap)
        if mask is None:  # no cache: as many keys as queries, or one query that sees all
            mask = scores.new_ones(scores.shape[-2:]).tril(scores.size(-1) - scores.size(-2)).bool()
        elif mask.dtype != torch.bool:
            scores, mask = scores + mask, torch.ones_like(mask, dtype=torch.bool)
        scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
        return scores.softmax(-1, dtype=torch.float32).to(v.dtype) @ v


class MLP(nn.Module):
    """Two projections, or three where it is gated."""

    fc: nn.Linear
    fc_1: nn.Linear
    fc_2: nn.Linear

    def __init__(self, config: EvoConfig, index: int) -> None:
        super().__init__()
        channels, neurons = config.hidden_size, config.intermediate_sizes[index]
        self.act, self.gated = ACT2FN[config.hidden_act], config.gated_mlp
        for name in ("fc_1", "fc_2") if self.gated else ("fc",):
            self.add_module(name, nn.Linear(channels, neurons, bias=config.bias))
        self.proj = nn.Linear(neurons, channels, bias=config.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(
            self.act(self.fc_1(x)) * self.fc_2(x) if self.gated else self.act(self.fc(x))
        )


class Block(GradientCheckpointingLayer):
    """Attention and MLP, one after the other or side by side."""

    def __init__(self, config: EvoConfig, index: int) -> None:
        super().__init__()

        def norm(wanted: bool) -> nn.Module:
            return norm_of(config, config.hidden_size) if wanted else nn.Identity()

        self.parallel = config.parallel_residual
        self.norm_1, self.norm_2 = norm(config.pre_norm), norm(config.pre_norm)
        self.post_attention_norm, self.post_mlp_norm = (
            norm(config.post_norm),
            norm(config.post_norm),
        )
        self.attn = Attention(config, index)
        self.mlp = MLP(config, index)

    def forward(
        self,
        x: Tensor,
        cos: Tensor,
        sin: Tensor,
        mask: Tensor | None,
        cache_position: Tensor,
        past_key_values: Any = None,
    ) -> Tensor:
        heard = self.attn(self.norm_1(x), cos, sin, mask, past_key_values, cache_position)
        attended = x + self.post_attention_norm(heard)
        seen = x if self.parallel else attended
        return attended + self.post_mlp_norm(self.mlp(self.norm_2(seen)))


class EvoForCausalLM(PreTrainedModel, GenerationMixin):
    """The network with its output head, for `generate` and for training."""

    config: EvoConfig
    config_class = EvoConfig
    supports_gradient_checkpointing = True
    _no_split_modules = ["Block"]
    _skip_keys_device_placement = ["past_key_values", "cache"]
    _supports_sdpa = True
    _tied_weights_keys = {"lm_head.weight": "transformer.wte.weight"}

    def __init__(self, config: EvoConfig) -> None:
        super().__init__(config)
        self.transformer: Any = nn.ModuleDict(
            {
                "wte": nn.Embedding(config.vocab_size, config.hidden_size),
                "h": nn.ModuleList(Block(config, i) for i in range(config.num_hidden_layers)),
                "ln_f": norm_of(config, config.hidden_size),
            }
        )
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    @classmethod
    def is_remote_code(cls) -> bool:
        # transformers 5.3 leaves tied weights of remote code on the meta device (its pull request
        # 44469); this file keeps to what it asks of its own models.
        return False

    def get_input_embeddings(self) -> nn.Module:
        return self.transformer.wte

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.transformer.wte = value

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        cache_position: Tensor | None = None,
        logits_to_keep: int | Tensor = 0,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        cache: Any = None,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast | tuple[Any, ...]:
        """Logits of the next token, as of every causal model of transformers.

        Args:
            input_ids: token ids, shape [B, T].
            attention_mask: which tokens are no padding, those in the cache included, shape
                [B, K]; or, made by transformers, which key each query sees, shape [B, 1, T, K].
            position_ids: shape [B, T]; by default counted from the first token, padding or not.
                Without a mask and a cache, a document begins wherever they do not go up by one,
                and sees nothing of those before it.
            past_key_values: a `Cache`, to which keys and values are added.
            inputs_embeds: instead of `input_ids`, shape [B, T, hidden_size].
            labels: token ids, shape [B, T]; the loss is of the token after each position.
            use_cache: whether to return keys and values.
            cache_position: where in the cache this call's tokens lie, shape [T].
            logits_to_keep: of so many last positions; 0 of all.
            output_hidden_states: whether to return the residual stream before each block, and
                what the output head sees.
            return_dict: an object or a tuple.
            cache: `past_key_values` by the name that newer versions of transformers give it.
            **kwargs: for the loss.
        """
        x = self.transformer.wte(input_ids) if inputs_embeds is None else inputs_embeds
        use_cache = self.config.use_cache if use_cache is None else use_cache
        if self.training and self.is_gradient_checkpointing:
            use_cache, cache = False, None  # computed again, keys would be added twice
        elif cache is None:
            cache = past_key_values
        if cache_position is None:
            past = 0 if cache is None else cache.get_seq_length()
            cache_position = torch.arange(x.size(1), device=x.device) + past
        packed = None
        if position_ids is None:
            position_ids = cache_position[None]
        elif attention_mask is None and cache is None:
            packed = _documents(position_ids)
        if use_cache and cache is None:
            cache = DynamicCache()
        if self.config.embedding_scale != 1:
            x = x * torch.tensor(self.config.embedding_scale, dtype=x.dtype)
        masks = self._masks(x, attention_mask, packed, cache, cache_position)
        rotary = [self._rotary(position_ids, local) for local in (False, True)]

        streams: list[Any] = []
        for index, block in enumerate(self.transformer.h):
            streams.append(x)
            turn, mask = rotary[self.config.local_rope[index]], masks[self.config.windows[index]]
            x = block(x, *turn, mask, cache_position, past_key_values=cache)
        x = self.transformer.ln_f(x)

        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits: Any = softcapped(self.lm_head(x[:, kept]), self.config.logit_softcap)
        loss = None
        if labels is not None:
            loss = self.loss_function(logits, labels, vocab_size=self.config.vocab_size, **kwargs)
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        output = CausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            past_key_values=cache if use_cache else None,
            hidden_states=(*streams, x) if output_hidden_states else None,
        )
        as_object = self.config.return_dict if return_dict is None else return_dict
        return output if as_object else output.to_tuple()

    def _rotary(self, position_ids: Tensor, local: bool) -> tuple[Tensor, Tensor]:
        """Cosines and sines, shape [1 or B, 1, T, rotary_dim]."""
        frequencies = rotary_frequencies(self.config, position_ids.device, local)
        angles = (position_ids[:, None, :, None].float() * frequencies).repeat(1, 1, 1, 2)
        return angles.cos(), angles.sin()

    def _masks(
        self,
        x: Tensor,
        attention_mask: Tensor | None,
        packed: Tensor | None,
        cache: Any,
        cache_position: Tensor,
    ) -> tuple[Tensor | None, Tensor | None]:
        """Which key each query sees, in blocks without a window and in those with it.

        Each has shape [1 or B, 1, T, K], or is None where torch's own mask will do.
        """
        length, window = x.size(1), self.config.attention_window
        whole = attention_mask
        if whole is None or whole.dim() == 2:
            whole = _mask(length, whole, packed, cache, cache_position)
        if window is None or not any(self.config.windows):
            return whole, None
        if whole is None:
            past = 0 if cache is None else cache.get_seq_length()
            keys = torch.arange(past + length, device=x.device)
            whole_mask = (keys <= cache_position[:, None])[None, None]
        else:
            whole_mask, keys = whole, torch.arange(whole.size(-1), device=x.device)
        near = cache_position[:, None] - keys < window
        if whole_mask.dtype == torch.bool:
            return whole, whole_mask & near
        return whole, whole_mask.masked_fill(~near, torch.finfo(whole_mask.dtype).min)


def _documents(position_ids: Tensor) -> Tensor | None:
    """The number of each token's document in its row, shape [B, T]; None where each row is one."""
    numbers = (position_ids.diff(dim=-1, prepend=position_ids[:, :1] - 1) != 1).cumsum(-1)
    if not torch.compiler.is_compiling() and not bool(numbers.any()):
        return None
    return numbers


def _mask(
    length: int,
    attention_mask: Tensor | None,
    packed: Tensor | None,
    cache: Any,
    cache_position: Tensor,
) -> Tensor | None:
    """Which key each query sees, shape [1 or B, 1, T, K]; None where torch's own mask will do.

    A cache of fixed size has keys beyond the last token. A padding token sees itself, as a
    softmax over nothing is not a number. `packed` numbers the documents of tokens, shape [B, T].
    """
    is_fixed = cache is not None and cache.is_compileable
    fixed = cache.layers[0].max_cache_len if is_fixed else None
    past = 0 if cache is None else cache.get_seq_length()
    if (
        attention_mask is not None
        and not torch.compiler.is_compiling()  # what is in it would break the graph
        and bool(attention_mask.all())
    ):
        attention_mask = None
    if fixed is None and attention_mask is None and packed is None and (past == 0 or length == 1):
        return None
    keys = torch.arange(past + length if fixed is None else fixed, device=cache_position.device)
    queries = cache_position[:, None]
    mask = (keys <= queries)[None, None]
    if attention_mask is not None:
        absent = keys.numel() - attention_mask.size(1)
        real = functional.pad(attention_mask.bool(), (0, absent))[:, None, None, :]
        mask = mask & real | (keys == queries)
    if packed is not None:
        absent = keys.numel() - length
        of_keys = functional.pad(packed, (0, absent), value=-1)
        mask = mask & (packed[:, None, :, None] == of_keys[:, None, None, :])
    return mask
