"""Statements to programs: names become numbers, words become what the instruction table says that they are.

Given an assembly text, `assemble` gives back one `CoreProgram` for each `.subgraph` (one where there is no such
directive), and for each entry the line that it came from. Every mistake is found, not only the first: those of a line,
then names that nothing defines, then what the encoding and the target refuse.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from lark import Token

from neuron_dialects.errors import NeuronError
from neuron_dialects.isa.program import CoreProgram, DramVariable, HandOver, QueueEntry
from neuron_dialects.target import load_target, target_names
from runtime.assembly.entries import EntryBuilder, Names
from runtime.assembly.problem import MAX_PROBLEMS, AssemblyError, Mistake, Problem, nearest, unquoted
from runtime.assembly.syntax import Directive, Entry, Statement, read_statements
from runtime.neff.encoding import entry_problem
from runtime.neff.model import parameter_file_name
from runtime.neff.program_check import VARIABLE_KINDS, EntryChecker, check_program
from runtime.neff.text import PINNED_QUEUE

Lines = Mapping[str, Sequence[int]]
"""Engine -> line of each entry of its queue."""


@dataclass(frozen=True)
class Assembly:
    """What a text holds: the programs in order, the line of each of their entries, the model's name if it gives one."""

    programs: tuple[CoreProgram, ...]
    lines: tuple[Lines, ...]
    name: str | None = None


def assemble(text: str) -> Assembly:
    """The programs of an assembly text (docs/assembly.md). Raises AssemblyError with every problem that it has."""
    statements, problems = read_statements(text)
    reader = _Reader(problems)
    for statement in statements:
        reader.read(statement)
    if not reader.sections:
        reader.problems.append(Problem(1, 1, 1, "the text has no .target and no queue"))
    programs = [_finished(section, reader.problems) for section in reader.sections]
    if not reader.problems:
        for section, program in zip(reader.sections, programs, strict=True):
            _check(section, program, reader.problems)
    if reader.problems:
        raise AssemblyError(sorted(reader.problems, key=lambda problem: (problem.line, problem.column))[:MAX_PROBLEMS])
    lines = tuple({engine: [e.line for e in queue] for engine, queue in s.queues.items()} for s in reader.sections)
    return Assembly(tuple(programs), lines, reader.name)


@dataclass(frozen=True)
class _Line:
    """An entry of a queue as it was read."""

    line: int
    entry: Entry


@dataclass
class _Section:
    """The text of one program."""

    line: int
    target: str = ""
    queues: dict[str, list[_Line]] = field(default_factory=dict)
    labels: dict[str, dict[str, int]] = field(default_factory=dict)
    semaphores: list[str] = field(default_factory=list)
    variables: list[DramVariable] = field(default_factory=list)
    origins: list[str] = field(default_factory=lambda: [""])
    macs: int = 0
    compulsory_bytes: int = 0
    core: int | None = None
    reserved_bytes: int = 0
    statistics: dict[str, int] = field(default_factory=dict)
    hand_overs: list[HandOver] = field(default_factory=list[HandOver])


DIRECTIVES: tuple[str, ...] = (
    ".model", ".subgraph", ".target", ".queue", ".semaphore", ".variable", ".origin", ".macs", ".compulsory_bytes",
    ".core", ".reserved_bytes", ".statistic", ".hand_over",
)  # fmt: skip
"""The directives that a text may have."""


class _Reader:
    """Sorts statements into sections and queues."""

    def __init__(self, problems: list[Problem]) -> None:
        self.problems = problems
        self.sections: list[_Section] = []
        self.name: str | None = None
        self._engine: str | None = None
        handlers = (
            self._model, self._subgraph, self._target, self._queue, self._semaphore, self._variable, self._origin,
            self._figure, self._figure, self._figure, self._figure, self._statistic, self._hand_over,
        )  # fmt: skip
        self._handlers = dict(zip(DIRECTIVES, handlers, strict=True))

    def read(self, statement: Statement) -> None:
        """Take in one line."""
        try:
            if statement.directive is not None:
                self._directive(statement.directive, statement.line)
            else:
                self._code(statement)
        except Mistake as mistake:
            self.problems.append(mistake.at(statement.line))

    def _code(self, statement: Statement) -> None:
        place = statement.label if statement.entry is None else statement.entry.mnemonic
        if self._engine is None:
            raise Mistake("an entry stands in a queue: write .queue and its engine first", place)
        section = self.sections[-1]
        queue = section.queues[self._engine]
        if statement.label is not None:
            labels = section.labels[self._engine]
            if str(statement.label) in labels:
                raise Mistake(f"label '{statement.label}' is defined twice in this queue", statement.label)
            labels[str(statement.label)] = len(queue)
        if statement.entry is not None:
            queue.append(_Line(statement.line, statement.entry))

    def _directive(self, directive: Directive, line: int) -> None:
        handler = self._handlers.get(str(directive.name))
        if handler is None:
            help_ = nearest(directive.name, self._handlers)
            raise Mistake(f"unknown directive {directive.name}", directive.name, help_)
        handler(directive, line)

    # -- directives ----------------------------------------------------------------------------------------------------

    def _model(self, directive: Directive, _: int) -> None:
        (name,) = _arguments(directive, "STRING")
        self.name = unquoted(name)

    def _subgraph(self, directive: Directive, line: int) -> None:
        _arguments(directive, "NAME")
        self.sections.append(_Section(line))
        self._engine = None

    def _section(self, directive: Directive) -> _Section:
        """The section that a directive belongs to: `.target` opens the first one itself."""
        if not self.sections or not self.sections[-1].target:
            raise Mistake("the first directive of a program is .target", directive.name)
        return self.sections[-1]

    def _target(self, directive: Directive, line: int) -> None:
        (name,) = _arguments(directive, "NAME")
        if not self.sections:
            self.sections.append(_Section(line))
        if self.sections[-1].target:
            raise Mistake("the program has a target already; .subgraph begins another program", directive.name)
        known = target_names()
        # Reading goes on as for a target that exists: the queues of an unknown one are not all mistakes.
        self.sections[-1].target = str(name) if str(name) in known else known[0]
        if str(name) not in known:
            raise Mistake(f"unknown target '{name}'", name, f"known are {', '.join(known)}")

    def _queue(self, directive: Directive, _: int) -> None:
        (engine,) = _arguments(directive, "NAME")
        section = self._section(directive)
        engines = load_target(section.target).engines
        if str(engine) not in (*engines, PINNED_QUEUE):
            raise Mistake(f"target {section.target} has no engine '{engine}'", engine, f"it has {', '.join(engines)}")
        if str(engine) in section.queues:
            raise Mistake(f"engine {engine} has a queue already", engine)
        self._engine = str(engine)
        section.queues[self._engine], section.labels[self._engine] = [], {}

    def _semaphore(self, directive: Directive, _: int) -> None:
        section = self._section(directive)
        number, name = _numbered(directive, "NAME")
        _in_order(number, len(section.semaphores))
        if str(name) in section.semaphores:
            raise Mistake(f"semaphore '{name}' is declared twice", name)
        section.semaphores.append(str(name))

    def _origin(self, directive: Directive, _: int) -> None:
        section = self._section(directive)
        number, name = _numbered(directive, "STRING")
        _in_order(number, len(section.origins))
        section.origins.append(unquoted(name))

    def _variable(self, directive: Directive, _: int) -> None:
        section = self._section(directive)
        words = list(directive.arguments)
        number = words.pop(0) if words and words[0].type == "INT" else None
        kinds = [word.type for word in words]
        if (
            directive.shape is None
            or kinds[:3] not in (["STRING", "NAME", "NAME"],)
            or kinds[3:] not in ([], ["STRING"])
        ):
            form = f'.variable 0 "x" {"|".join(VARIABLE_KINDS)} f32 [128, 512]'
            raise Mistake(f"a variable is written {form}", directive.name)
        taken = {variable.id for variable in section.variables}
        identity = int(number) if number is not None else max(taken, default=-1) + 1
        if identity in taken:
            raise Mistake(f"a variable has number {identity} already", number or directive.name)
        name, kind, dtype = words[:3]
        if str(kind) not in VARIABLE_KINDS:
            raise Mistake(f"'{kind}' is no kind of variable", kind, f"kinds are {', '.join(VARIABLE_KINDS)}")
        given = unquoted(words[3]) if len(words) > 3 else ""
        file_name = given or (parameter_file_name(identity, unquoted(name)) if str(kind) == "file" else "")
        variable = DramVariable(identity, unquoted(name), str(kind), str(dtype), directive.shape, file_name)
        section.variables.append(variable)

    def _figure(self, directive: Directive, _: int) -> None:
        (value,) = _arguments(directive, "INT")
        setattr(self._section(directive), directive.name[1:], _count(value))

    def _statistic(self, directive: Directive, _: int) -> None:
        name, value = _arguments(directive, "STRING", "INT")
        self._section(directive).statistics[unquoted(name)] = _count(value)

    def _hand_over(self, directive: Directive, _: int) -> None:
        section = self._section(directive)
        words = ("program", "variable", "semaphore", "count", "buffers")
        kinds = ("INT", "NAME", "INT", "NAME", "INT", "NAME", "NAME", "NAME", "INT", "NAME", "INT")
        given = [str(word) for word in directive.arguments]
        if [word.type for word in directive.arguments] != [*kinds] or (*given[1::2],) != words:
            form = ".hand_over 0 program 1 variable 0 semaphore ready0 count 4 buffers 2"
            raise Mistake(f"a hand-over is written {form}", directive.name)
        if given[6] not in section.semaphores:
            raise Mistake(f"no semaphore '{given[6]}'", directive.arguments[6], nearest(given[6], section.semaphores))
        variable, peer, theirs, count, buffers = (directive.arguments[place] for place in (0, 2, 4, 8, 10))
        semaphore = section.semaphores.index(given[6])
        figures = _count(count), _count(buffers)
        section.hand_overs.append(HandOver(_count(variable), _count(peer), _count(theirs), semaphore, *figures))


def _arguments(directive: Directive, *kinds: str) -> tuple[Token, ...]:
    """The words of a directive that takes words of these kinds and no shape."""
    given = tuple(word.type for word in directive.arguments)
    if given != kinds or directive.shape is not None:
        names = {"NAME": "a name", "INT": "a number", "STRING": "a string"}
        raise Mistake(f"{directive.name} takes {' and '.join(names[kind] for kind in kinds)}", directive.name)
    return directive.arguments


def _numbered(directive: Directive, kind: str) -> tuple[Token | None, Token]:
    """The number, where one is given, and the word behind it."""
    if directive.arguments and directive.arguments[0].type == "INT":
        number, name = _arguments(directive, "INT", kind)
        return number, name
    (name,) = _arguments(directive, kind)
    return None, name


def _count(word: Token) -> int:
    """A figure of the program."""
    if not 0 <= int(word) < 1 << 63:
        raise Mistake(f"{word} is not a number from 0 to {(1 << 63) - 1}", word)
    return int(word)


def _in_order(number: Token | None, expected: int) -> None:
    if number is not None and int(number) != expected:
        raise Mistake(f"number {number} is out of order, the next is {expected}", number)


# -- whole programs ----------------------------------------------------------------------------------------------------


def _finished(section: _Section, problems: list[Problem]) -> CoreProgram:
    """The program of a section; entries with a mistake are left out, each with a problem."""
    if not section.target:
        problems.append(Problem(section.line, 1, 1, "the program has no .target"))
    names = Names(section.semaphores, section.variables, section.origins)
    queues: dict[str, list[QueueEntry]] = {}
    for engine, lines in section.queues.items():
        builder = EntryBuilder(engine, names, section.labels[engine])
        queues[engine] = entries = []
        for line in lines:
            try:
                entries.append(builder.entry(line.entry))
            except Mistake as mistake:
                problems.append(mistake.at(line.line))
    pinned = queues.pop(PINNED_QUEUE, [])
    return CoreProgram(
        section.target,
        queues,
        section.variables,
        tuple(section.semaphores),
        tuple(names.origins),
        section.macs,
        section.compulsory_bytes,
        section.statistics,
        pinned,
        section.core,
        section.reserved_bytes,
        tuple(section.hand_overs),
    )


def _check(section: _Section, program: CoreProgram, problems: list[Problem]) -> None:
    """What the encoding or the target refuses, at the lines concerned; then what concerns no line."""
    target = load_target(program.target)
    checker = EntryChecker(program, target)
    for engine, entries in program.queues.items():
        for line, entry in zip(section.queues[engine], entries, strict=True):
            problem = entry_problem(entry) or checker.problem(entry, engine, len(entries))
            if problem is not None:
                word = line.entry.mnemonic
                problems.append(Problem(line.line, word.column or 1, len(word), problem))
    if not problems:
        try:
            check_program(program, "the program")
        except NeuronError as error:
            problems.append(Problem(section.line, 1, 1, error.message))
