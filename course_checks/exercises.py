"""An exercise is data: what is right, what it is tried on, what people get wrong, and what to say.

From one :class:`Exercise` come the check in the notebook, its tests, and the inputs of the grader.

How to write one::

    check_double = Exercise(
        name="double",
        task="Return twice the numbers.",
        right=lambda x: 2 * x,
        inputs=lambda seed: [(draw(3, seed=seed),), (draw(2, 3, seed=seed),)],
        shape="(…, C)",
        mistakes={"You added 2; multiply by it.": lambda x: x + 2},
        notice="The shape stays as it is.",
    )

- ``right`` says it in a few plain lines of torch or Python, like the folded solution. The names of
  its arguments are those of the exercise's text: messages show them.
- ``inputs(seed)`` returns several calls' arguments, from small to large: the first on which an
  answer goes wrong is shown. Between them they must tell every mistake from what is right, for any
  seed; edge cases come last. They hold what the text promises: lists only where it says so.
- A mistake is written as a student writes it, plainly, never bent to reach its sentence. Several
  ways to one mistake go in a tuple under one sentence, which says what was done and what to do
  instead. If an answer that makes the mistake is told something else, the check is wrong. What
  raises an error on every input needs no sentence: the error says it.
- ``use(answer, *arguments)`` is for what is not one call: a loop of steps with a state, many draws.
  It returns a number, a tensor, a list, or a dict of those whose keys are words of the message.
- ``also(answer, seed)`` is for what no comparison of results can say; it raises Wrong.

How an answer is judged: all results are compared with the right ones first. If some differ, a
mistake explains the answer if it agrees wherever the mistake itself shows; the one that shows most
often wins. A mistake that has another one beside it must explain the first wrong result and half of
them. Only then come general remarks on shape and type, and the smallest input that goes wrong.
"""

import functools
import importlib
import inspect
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import course_checks
from course_checks import Verdict, Wrong, shortcuts, verdict_on
from course_checks.outcomes import (
    Outcome,
    alike,
    difference,
    observe,
    relation,
    same,
    show_input,
)

#: The seed of the notebook's own inputs.
NOTEBOOK = 0
Way = Callable[..., Any]


def _one_call(answer: Callable, *arguments: Any) -> Any:
    return answer(*arguments)


@dataclass(frozen=True, eq=False, kw_only=True)
class Exercise:
    """An exercise and its check, which is called like a function: ``check_softmax(softmax)``.

    Args:
        name: the function to be written; the check is ``check_<name>``.
        task: what it does, in a line.
        right: the function itself.
        inputs: the arguments of several calls, drawn from a seed.
        mistakes: a sentence and the function, or functions, that make the mistake.
        notice: one thing to notice when the answer is right.
        shape: what the dimensions of the result mean, such as ``"(B, T, C)"``.
        use: how an answer is used with the arguments of one call.
        also: what else is tested, with the answer and a seed.
        without: names that the text forbids, and an answer that uses them.
        tolerance: how far numbers may be from the right ones.
    """

    name: str
    task: str
    right: Way
    inputs: Callable[[int], list[tuple]]
    mistakes: Mapping[str, Way | tuple[Way, ...]]
    notice: str
    shape: str = ""
    use: Callable[..., Any] = _one_call
    also: Callable[[Callable, int], None] | None = None
    without: Mapping[str, Way] = field(default_factory=dict)
    tolerance: float = 1e-4

    @property
    def __name__(self) -> str:
        return f"check_{self.name}"

    def __call__(self, answer: Callable) -> Verdict:
        """Check the answer on the notebook's own inputs."""
        return self.check(answer)

    def check(self, answer: Callable, seed: int | None = None) -> Verdict:
        """Return a verdict, whatever the answer does; ``seed`` draws other inputs."""
        return verdict_on(self.__name__, lambda watched: self.judge(watched, seed), answer)

    def ways(self) -> list[tuple[str, Way]]:
        """Return each mistake with its sentence, those of several ways one by one."""
        return [
            (sentence, way)
            for sentence, ways in self.mistakes.items()
            for way in (ways if isinstance(ways, tuple) else (ways,))
        ]

    def judge(self, answer: Callable, seed: int | None = None) -> str:
        """Return what to notice, or raise Wrong with a diagnosis, or what the answer raised."""
        seed = NOTEBOOK if seed is None else seed
        calls, rights = _right_results(self, seed)
        found = [observe(self.use, answer, *pair) for pair in zip(calls, rights, strict=True)]
        wrong = [n for n, one in enumerate(found) if not self._is_right(one, rights[n])]
        if wrong:
            if sentence := self._mistake(seed, found, wrong):
                raise Wrong(sentence, named=True)
            self._general(answer, calls, rights, found, wrong)
        for outcome in found:
            _expect_care(outcome)
        for name in shortcuts.names_used(answer) & set(self.without):
            raise Wrong(f"The result is right, but the exercise asks you to do without `{name}`.")
        if self.also:
            self.also(answer, seed)
        return self.notice

    def calls(self, seed: int) -> list[dict[str, Any]]:
        """Return the arguments of each call by their names."""
        names = list(inspect.signature(self.right).parameters)
        return [dict(zip(names, each, strict=False)) for each in self.inputs(seed)]

    def _is_right(self, outcome: Outcome, right: Any) -> bool:
        read = not outcome.error and not outcome.trouble
        return read and same(outcome.value, right, self.tolerance)

    def _mistake(self, seed: int, found: list[Outcome], wrong: list[int]) -> str:
        """Return the sentence of the mistake that explains the answer best, if any does."""
        best, explained = "", (False, 0)
        calls, _ = _right_results(self, seed)
        for sentence, made, shows in _made_by_mistakes(self, seed):
            agrees = [n for n in shows if alike(found[n], made[n], self.tolerance)]
            # Errors alike have many causes: they prove nothing unless all else is right.
            by_value = any(not made[n].error for n in shows)
            whole = agrees == shows and (by_value or (len(shows) < len(made) and shows == wrong))
            if not whole:  # beside another mistake
                agrees = [n for n in agrees if not made[n].error]
                if 2 * len(agrees) < len(wrong) or not (
                    agrees == wrong or set(shows) <= set(wrong)
                ):
                    continue
            if wrong[0] in agrees and (whole, len(agrees)) > explained:
                right_elsewhere = not set(shows) <= set(wrong)
                given = f"Right for some inputs, but with {show_input(calls[wrong[0]])}: "
                best, explained = given * right_elsewhere + sentence, (whole, len(agrees))
        return best

    def _general(
        self, answer: Callable, calls: list, rights: list, found: list[Outcome], wrong: list[int]
    ) -> None:
        """Raise what can be said of any answer that no mistake explains."""
        n = wrong[0]
        first, right = found[n], rights[n]
        some = "Right for some inputs, not for all. " if len(wrong) < len(calls) else ""
        given = show_input(calls[n])
        if first.error:
            first.error.add_note(f"with {given}")
            raise first.error
        if first.trouble:
            raise Wrong(first.trouble)
        _expect_care(first)
        again = observe(self.use, answer, calls[n], right)
        if not alike(again, first, self.tolerance):
            raise Wrong(
                "Two calls with the same input gave two results. Is there chance in it, or "
                "something that is kept from one call to the next?"
            )
        read = [k for k in wrong if not found[k].error and not found[k].trouble]
        hint = relation([(found[k].value, rights[k]) for k in read])
        if getattr(first.value, "shape", None) != getattr(right, "shape", None):
            expected = f"{self.shape} = {tuple(right.shape)}".removeprefix(" = ")
            raise Wrong(
                f"{some}{hint}With {given} the result has shape {tuple(first.value.shape)}; "
                f"expected {expected}."
            )
        raise Wrong(f"{some}{hint}With {given}: {difference(first.value, right, self.tolerance)}.")


def changed(make: Callable[[Any], Way], parts: Mapping) -> dict[str, Way | tuple[Way, ...]]:
    """Return the mistakes in which ``make`` builds a whole answer from a wrong part."""
    return {
        sentence: tuple(map(make, part)) if isinstance(part, tuple) else make(part)
        for sentence, part in parts.items()
    }


@functools.lru_cache(maxsize=2)
def _right_results(exercise: Exercise, seed: int) -> tuple[list[dict[str, Any]], list[Any]]:
    """Return each call's arguments and its right result."""
    calls = exercise.calls(seed)
    return calls, [exercise.use(exercise.right, *arguments.values()) for arguments in calls]


@functools.lru_cache(maxsize=2)
def _made_by_mistakes(exercise: Exercise, seed: int) -> list[tuple[str, list[Outcome], list[int]]]:
    """Return each mistake's sentence, what it makes of each call, and where that is not right."""
    calls, rights = _right_results(exercise, seed)
    found = []
    for sentence, way in exercise.ways():
        made = [observe(exercise.use, way, *pair) for pair in zip(calls, rights, strict=True)]
        shows = [n for n, one in enumerate(made) if not exercise._is_right(one, rights[n])]
        found.append((sentence, made, shows))
    return found


def _expect_care(outcome: Outcome) -> None:
    """Raise Wrong where an argument was changed, or the result lies elsewhere than the input."""
    if outcome.remark:
        raise Wrong(outcome.remark)
    if outcome.changed:
        raise Wrong(
            f"The argument `{outcome.changed}` was changed in place. The caller may still need it: "
            "write `x = x - …` rather than `x -= …`, `masked_fill` rather than `masked_fill_` or "
            "`x[…] = …`, or work on a copy: `x.clone()`, `list(x)`, `dict(x)`."
        )


@functools.cache
def everything() -> dict[str, Exercise]:
    """Return all exercises of the course by the names of their checks."""
    found = {}
    for part in pkgutil.iter_modules(course_checks.__path__):
        module = importlib.import_module(f"course_checks.{part.name}")
        for value in vars(module).values():
            if isinstance(value, Exercise):
                found[value.__name__] = value
    return found


def find(check: str) -> Exercise:
    """Return the exercise of that check. Raises LookupError if the course has none."""
    if check not in everything():
        raise LookupError(f"course_checks has no {check}")
    return everything()[check]
