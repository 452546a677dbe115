"""Answers held against a schema as they come: a bad one is asked for once more, then it has failed."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from purekv_cli.answers.schema import Invalid, Schema
from purekv_cli.errors import InvalidAnswer
from purekv_cli.runtime.events import Answer


@dataclass(frozen=True, slots=True)
class Verdict:
    """On one answer."""

    value: Any  # the JSON in it
    wrong: str | None  # why it cannot be used; None: it can
    retry: bool  # it was the second one

    @property
    def facts(self) -> dict[str, Any]:
        """For the record."""
        said = {"invalid": self.wrong} if self.wrong else {"parsed": self.value}
        return said | ({"retry": True} if self.retry else {})


@dataclass(slots=True)
class Checked:
    """One run's answers; `again` is what `pipeline.Run.ask` takes."""

    schema: Schema
    good: Callable[[str], None]  # is given the JSON of an answer as one line
    bad: Callable[[Answer], None]  # is given an answer that is not asked for again
    verdicts: list[Verdict] = field(default_factory=list)  # one an answer

    def again(self, answer: Answer) -> str | None:
        """What to ask after the answer; None: it is good, or it was the second one."""
        retry = bool(self.verdicts and self.verdicts[-1].wrong and not self.verdicts[-1].retry)
        try:
            value, wrong = self.schema.value(answer.text), None
        except Invalid as error:
            value, wrong = None, str(error) + ("; --max-tokens cut it off" if answer.finish == "length" else "")
        self.verdicts.append(Verdict(value, wrong, retry))
        if wrong and not retry:
            return f"That answer cannot be used: {wrong}. Answer again, with JSON only, valid under the schema."
        if wrong:
            self.bad(answer)
        else:
            self.good(json.dumps(value, ensure_ascii=False) + "\n")
        return None

    def finish(self) -> None:
        """Raise InvalidAnswer if a question got no valid answer."""
        failed = [verdict.wrong for verdict in self.verdicts if verdict.wrong and verdict.retry]
        if not failed:
            return
        questions = sum(not verdict.retry for verdict in self.verdicts)
        which = "the answer is" if questions == 1 else f"{len(failed)} of {questions} answers are"
        raise InvalidAnswer(
            f"{which} not valid under the schema, nor when asked again: {failed[0]}",
            "What was said stands above; a larger model, a simpler schema or more --max-tokens may help.",
        )
