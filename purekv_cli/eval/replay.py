"""Every arm read off one dense prefill of a clip, teacher-forced.

A policy decides by the queries, keys, values and log-sum-exp of a dense prefill, so one prefill of the clip, and one
reading of each question, serve all policies, budgets and moments. An answer generated greedily equals the true one just
when every token of it, and the end, is the model's first choice after the true tokens before it: the true answer is fed
once, for many arms in one batch. Where the first other choice may still lead to an answer that counts as right (another
case, no full stop, an option's letter), the answer is generated.
"""

from collections.abc import Callable, Iterator, Sequence

import torch

from purekv_cli.demo.language import normalise
from purekv_cli.eval.answers import is_right, prompt
from purekv_cli.eval.arms import Arm
from purekv_cli.eval.clipworld import frames_of
from purekv_cli.eval.records import Graded, Item, graded
from purekv_cli.eval.replay_plans import Plan, Plans
from purekv_cli.eval.replay_prefill import Captured, captured
from purekv_cli.eval.replay_rows import Asked, Row, next_tokens, tell
from purekv_cli.models.base import Adapter
from purekv_cli.video.frames import Frames

LONGEST_ANSWER = 96  # tokens that are generated at most; the demo world's longest narration has fewer
AND_SO_ON = " [wrong here]"


class ReplayWay:
    """Implements `records.Way` for decoders that are read straight from their weights."""

    def __init__(self, adapter: Adapter, longest: int = LONGEST_ANSWER) -> None:
        """`longest`: tokens of an answer that has to be generated."""
        self._adapter, self._longest = adapter, longest

    @torch.inference_mode()
    def grade(self, items: Sequence[Item], arms: Sequence[Arm], frames: Frames | None = None) -> Iterator[Graded]:
        """See `records.Way`."""
        adapter = self._adapter.after(items[0].talk)
        clip = captured(adapter, frames or frames_of(items[0].video, adapter.geometry))
        every = asked_of(clip, items)
        plans = Plans(clip, every)
        for number, item in enumerate(items):
            yield from self._graded(clip, item, every[number], arms, plans.of(number, arms))

    def _graded(
        self, clip: Captured, item: Item, asked: Asked, arms: Sequence[Arm], plans: Sequence[Plan | str]
    ) -> Iterator[Graded]:
        """One question in every arm."""
        rows = [plan.row for plan in plans if isinstance(plan, Plan)]
        told = tell(clip, asked, rows)
        answers = self._answers(clip, item, asked, rows, [choices for choices, _, _ in told])
        found = iter(zip(told, answers, strict=True))
        text = len(asked.tail) * len(clip.states)
        full = clip.length * len(clip.states) + text
        for arm, plan in zip(arms, plans, strict=True):
            if isinstance(plan, str):
                yield graded(item, arm, error=plan)
                continue
            (_, kl, agreement), (answer, right) = next(found)
            yield graded(
                item,
                arm,
                answer=answer,
                right=right,
                kv_bytes_full=full * clip.entry_bytes,
                kv_bytes_kept=(plan.entries + (0 if plan.row.after_prompt else text)) * clip.entry_bytes,
                kl=kl,
                agreement=agreement,
            )

    def _answers(
        self, clip: Captured, item: Item, asked: Asked, rows: Sequence[Row], choices: Sequence[Sequence[int]]
    ) -> list[tuple[str, bool]]:
        """The answers as far as they are known, and whether they are right."""
        truth = asked.truth.tolist()
        said: list[list[int]] = []
        for chosen in choices:
            same = next((i for i, (a, b) in enumerate(zip(chosen, truth, strict=False)) if a != b), len(truth))
            said.append(list(chosen[: same + 1]))
        answers = [self._verdict(item, tokens) for tokens in said]
        while open_ := [number for number, answer in enumerate(answers) if answer is None]:
            chosen = next_tokens(clip, asked, [rows[n] for n in open_], [said[n] for n in open_])
            for number, token in zip(open_, chosen, strict=True):
                said[number].append(token)
                answers[number] = self._verdict(item, said[number])
        return [answer for answer in answers if answer is not None]

    def _verdict(self, item: Item, tokens: Sequence[int]) -> tuple[str, bool] | None:
        """An answer so far and whether it is right; None: more tokens are needed to tell."""
        ended = tokens[-1] in self._adapter.stop_ids
        text = self._text(tokens[:-1] if ended else tokens)
        if ended or len(tokens) >= self._longest:
            return text, is_right(item, text)
        if not item.options and not normalise(item.truth).startswith(normalise(text)):
            return text + AND_SO_ON, False
        return None

    def _text(self, tokens: Sequence[int]) -> str:
        decode = self._adapter.tokenizer.decode
        return str(decode(list(tokens), skip_special_tokens=True, clean_up_tokenization_spaces=False))


def asked_of(
    clip: Captured, items: Sequence[Item], otherwise: Callable[[torch.Tensor], torch.Tensor] | None = None
) -> list[Asked]:
    """All questions with their true answers, read densely in one batch.

    Args:
        otherwise: the answer, int64 [m], to a question's tail, int64 [n], where the `truth` is empty.
    """
    adapter, device = clip.adapter, clip.embeds.device
    tails = [adapter.after(item.talk).tail(prompt(item))[0] for item in items]
    encode = adapter.tokenizer.encode
    answers = [
        torch.tensor(encode(item.truth, add_special_tokens=False), dtype=torch.int64, device=device)
        if item.truth or otherwise is None
        else otherwise(tail)
        for item, tail in zip(items, tails, strict=True)
    ]
    texts = clip.texts([torch.cat(pair) for pair in zip(tails, answers, strict=True)])
    asked = []
    for row, (tail, answer) in enumerate(zip(tails, answers, strict=True)):
        places = texts.hidden[row, len(tail) - 1 : len(tail) + len(answer)]
        asked.append(Asked(tail, answer, clip.logprobs(places), texts, row))
    return asked
