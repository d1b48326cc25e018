"""A checkpoint of either kind as lm-evaluation-harness sees a language model.

The harness's own class for Hugging Face models would need an export first. This one tokenises,
truncates and scores as that does (`lm_eval.models.huggingface.HFLM`, version 0.4.13).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, TypeVar

import torch
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import normalize_gen_kwargs
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from rich.console import Console
from rich.progress import track
from torch.nn.utils.rnn import pad_sequence

from evo.errors import UserError
from evo.model.checkpoint import Checkpoint
from evo.model.layerwise_gpt import head_logits, hidden_states
from training.evaluation.generation import greedy
from training.evaluation.stops import Stops

MOST_LOGITS = 2**25
"""How many are there at once: 128 MiB in float32."""

NEW_TOKENS = 256
"""Generated where a task does not say how many, as by the harness's own classes."""

OF_NO_CONSEQUENCE = {"temperature", "top_p", "top_k"}
"""Settings of a generation that change nothing where it is greedy."""

Item = TypeVar("Item")
Result = TypeVar("Result")


class CheckpointLM(TemplateLM):
    """Scores and generates for the harness.

    Args:
        stored: with a tokenizer.
        dtype: of the weights.
        batch_size: sequences that run at once.
        device: torch's name of it.

    Raises:
        UserError: there is no tokenizer.
    """

    def __init__(
        self, stored: Checkpoint, *, dtype: torch.dtype, batch_size: int, device: str
    ) -> None:
        super().__init__()
        if stored.tokenizer is None:
            raise UserError(f"{stored.path} has no tokenizer, but tasks are text")
        self.text, self.batch_size = stored.tokenizer, batch_size
        self._device = torch.device(device)  # what the parent's `device` gives
        self.network = stored.model(dtype).to(device)
        self.max_length = stored.config.block_size

    @property
    def eot_token_id(self) -> int:
        """What ends a text."""
        return self.text.end_of_text

    @property
    def prefix_token_id(self) -> int:
        """What stands before a text without context."""
        begins = self.text.beginning_of_text
        return self.eot_token_id if begins is None else begins

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **_: Any
    ) -> list[int]:
        """Token ids, with those that the tokenizer puts around a text, unless told otherwise or
        where the text has the first of them already."""
        if add_special_tokens is None:
            add_special_tokens = not string.startswith(self.text.decode([self.prefix_token_id]))
        return self.text.encode_whole(string, special=add_special_tokens)

    def _loglikelihood_tokens(
        self,
        requests: Sequence[tuple[Any, list[int], list[int]]],
        disable_tqdm: bool = False,
        **_: Any,
    ) -> list[tuple[float, bool]]:
        """Of each context and continuation: the log-likelihood of the latter, and whether it is
        what greedy generation would give.

        Raises:
            UserError: a continuation that has no tokens or more than the model takes.
        """
        for texts, _context, continuation in requests:
            if not continuation:  # would be certain, and so the best of all choices
                raise UserError(
                    f"a task asks for {texts[1]!r} after {texts[0][-40:]!r}, but the tokenizer "
                    "leaves no token of its own to it"
                )
            if len(continuation) > self.max_length:
                raise UserError(f"a continuation is beyond the model's {self.max_length} tokens")
        # Choices of one token share what is run: too long a context is cut on the left, and of the
        # last token nothing is asked.
        sharing: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for index, (_, context, continuation) in enumerate(requests):
            whole = context + continuation
            sharing[tuple(whole[-(self.max_length + 1) : -1])].append(index)
        rows = [(row, [requests[i][2] for i in indices]) for row, indices in sharing.items()]
        scored = self._batched(rows, lambda row: len(row[0]), self._score, not disable_tqdm)
        found = {
            index: score
            for indices, scores in zip(sharing.values(), scored, strict=True)
            for index, score in zip(indices, scores, strict=True)
        }
        return [found[index] for index in range(len(requests))]

    @torch.inference_mode()
    def _score(
        self, rows: Sequence[tuple[tuple[int, ...], list[list[int]]]]
    ) -> list[list[tuple[float, bool]]]:
        """Of each row of tokens, the scores of the continuations that may end it: each but for its
        last token is in the row already."""
        tokens = pad_sequence([torch.tensor(row) for row, _ in rows], batch_first=True)
        hidden = hidden_states(self.network, tokens.to(self.device))  # causal: padding is not seen
        pairs = [(index, wanted) for index, (_, ends) in enumerate(rows) for wanted in ends]
        counts = [len(wanted) for _, wanted in pairs]
        seen = torch.cat(
            [hidden[i, len(rows[i][0]) - len(wanted) : len(rows[i][0])] for i, wanted in pairs]
        )
        targets = torch.tensor([token for _, wanted in pairs for token in wanted])
        found = [
            self._of_targets(*part)
            for part in zip(*self._parts(seen, targets.to(self.device)), strict=True)
        ]
        likelihoods = torch.cat([one for one, _ in found]).split(counts)
        likeliest = torch.cat([one for _, one in found]).split(counts)
        scored = zip(likelihoods, likeliest, strict=True)
        return [
            [
                (one.double().sum().item(), bool(is_greedy.all()))
                for one, is_greedy in islice(scored, len(ends))
            ]
            for _, ends in rows
        ]

    def _parts(self, *tensors: torch.Tensor) -> Iterator[Sequence[torch.Tensor]]:
        """Each tensor in parts for which the logits fit."""
        positions = max(1, MOST_LOGITS // self.network.config.padded_vocab_size)
        return (tensor.split(positions) for tensor in tensors)

    def _of_targets(
        self, hidden: torch.Tensor, targets: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The log-likelihood of each target, and whether it is the likeliest token."""
        logits = head_logits(self.network, hidden).float()
        likelihoods = logits.log_softmax(-1).gather(-1, targets[:, None])[:, 0]
        return likelihoods, logits.argmax(-1) == targets

    def loglikelihood_rolling(
        self, requests: list[Instance], disable_tqdm: bool = False
    ) -> list[float]:
        """The log-likelihood of whole texts, each token once and with the most context."""
        windows: list[tuple[Any, list[int], list[int]]] = []
        owners: list[int] = []
        for index, (string,) in enumerate(request.args for request in requests):
            rolling = get_rolling_token_windows(
                token_list=self.tok_encode(string),
                prefix_token=self.prefix_token_id,
                max_seq_len=self.max_length,
                context_len=1,
            )
            windows += [(None, *make_disjoint_window(window)) for window in rolling]
            owners += [index] * (len(windows) - len(owners))
        sums = [0.0] * len(requests)
        scored = self._loglikelihood_tokens(windows, disable_tqdm=disable_tqdm)
        for owner, (likelihood, _) in zip(owners, scored, strict=True):
            sums[owner] += likelihood
        return sums

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Greedy continuations, up to the first of each request's stop sequences.

        Raises:
            UserError: a task asks for other than greedy ones, or for more tokens than the model
                takes.
        """
        alike: dict[str, list[int]] = defaultdict(list)  # what may run in one batch
        for index, (_, settings) in enumerate(request.args for request in requests):
            alike[repr(settings)].append(index)
        texts = [""] * len(requests)
        for indices in alike.values():
            stops, count = self._stops(requests[indices[0]].args[1])
            room = self.max_length - count
            prompts = [
                (self.tok_encode(requests[i].args[0]) or [self.prefix_token_id])[-room:]
                for i in indices
            ]

            def generate(
                batch: Sequence[list[int]], stops: Stops = stops, count: int = count
            ) -> list[str]:
                found = greedy(self.network, batch, count, stops.end)
                return [stops.cut(tokens) for tokens in found]

            for index, text in zip(
                indices, self._batched(prompts, len, generate, not disable_tqdm), strict=True
            ):
                texts[index] = text
        return texts

    def _stops(self, settings: dict[str, Any]) -> tuple[Stops, int]:
        """What ends a generation with these settings, at the latest after so many tokens."""
        settings = normalize_gen_kwargs(settings, NEW_TOKENS)
        until, count = settings.pop("until", []), settings.pop("max_gen_toks")
        if settings.pop("do_sample"):
            raise UserError("a task asks for random continuations: evo generates greedily only")
        for name, value in settings.items():
            if name not in OF_NO_CONSEQUENCE and (name, value) != ("num_beams", 1):
                raise UserError(
                    f"a task asks for generation with {name} {value!r}: evo generates greedily only"
                )
        if count >= self.max_length:
            raise UserError(
                f"a task asks for {count} new tokens, but the model takes {self.max_length} "
                "with the prompt"
            )
        return Stops(self.text, [one for one in until if one], self.eot_token_id), count

    def _batched(
        self,
        items: Sequence[Item],
        length: Callable[[Item], int],
        run: Callable[[Sequence[Item]], Iterable[Result]],
        shown: bool,
    ) -> list[Result]:
        """The result of each item, run together with others of about its length, longest first."""
        order = sorted(range(len(items)), key=lambda index: -length(items[index]))
        console = Console(stderr=True)
        results: dict[int, Result] = {}
        for start in track(
            range(0, len(order), self.batch_size),
            description=f"{len(items)} sequences",
            console=console,
            transient=True,
            disable=not (shown and console.is_terminal),
        ):
            batch = order[start : start + self.batch_size]
            results |= zip(batch, run([items[index] for index in batch]), strict=True)
        return [results[index] for index in range(len(items))]
