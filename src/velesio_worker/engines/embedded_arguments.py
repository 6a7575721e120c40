"""llama-server's command line, read by llama-server's rules and with its words when something is wrong.

Flags are read from left to right and the last one wins; in long names ``_`` goes for ``-``; nothing is abbreviated.
``--flag=value`` is taken as well, which llama-server does not.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

from velesio_worker.engines.embedded_flags import ELSEWHERE, FAMILIES, FLAGS, REMOVED, Flag
from velesio_worker.engines.embedded_params import Params, new_params, put_fields

ENVIRONMENT: Final = MappingProxyType(
    {"LLAMA_ARG_HOST": "--host", "LLAMA_ARG_PORT": "--port", "LLAMA_API_KEY": "--api-key"}
)
"""The environment variables of llama-server's that stand for a flag here, too; flags overrule them."""

REMEDY: Final = "use a llama-server binary (data/binaries/llama-server)"
_NAMES: Final = MappingProxyType({name: (flag, True) for flag in FLAGS for name in flag.names.split()})
_OFF: Final = MappingProxyType({name: (flag, False) for flag in FLAGS for name in flag.off.split()})
_REMOVED: Final = MappingProxyType({name: advice for names, advice in REMOVED.items() for name in names.split()})


class ArgumentError(Exception):
    """The command line is not understood; the text is what llama-server would write."""


@dataclass(frozen=True, slots=True)
class Argument:
    """A flag as it was given.

    Attributes:
        name: what it was called.
        flag: the flag.
        value: its value; for a switch whether it is on.
    """

    name: str
    flag: Flag
    value: Any


def read_arguments(argv: Sequence[str], environ: Mapping[str, str]) -> list[Argument]:
    """Read a command line.

    Args:
        argv: the arguments, without the program's name.
        environ: the environment, of which ``ENVIRONMENT`` is read.

    Raises:
        ArgumentError: it is not understood.
    """
    return [*_from_environment(environ), *_from_words(argv)]


def make_params(arguments: Sequence[Argument]) -> Params:
    """Return the ``CommonParams`` that the arguments describe.

    Raises:
        ArgumentError: the wheel does not take one of them.
        ImportError: the wheel cannot be imported.
    """
    params = new_params()
    for argument in arguments:
        target = argument.flag.target
        try:
            if isinstance(target, str):
                put_fields(params, target, argument.value)
            else:
                target(params, argument.value)
        except AttributeError as error:
            raise ArgumentError(
                f"error: {argument.name}: the installed xllamacpp is too old or too new ({error}): "
                f"install another, or {REMEDY}"
            ) from None
        except (ValueError, TypeError, OverflowError) as error:
            raise _wrong_value(argument.name, argument.flag, error) from None
    return params


def usage() -> str:
    """Return what ``--help`` shows."""
    return (
        "The llama.cpp server out of the xllamacpp wheel. It takes these of llama-server's flags, which mean what\n"
        "they mean there (https://github.com/ggml-org/llama.cpp/tree/master/tools/server). For others\n"
        f"{REMEDY}.\n\n" + "\n".join(_usage_of(flag) for flag in FLAGS)
    )


def _from_environment(environ: Mapping[str, str]) -> Iterator[Argument]:
    for variable, name in ENVIRONMENT.items():
        if variable in environ:
            flag, _ = _NAMES[name]
            try:
                yield Argument(name, flag, _value(flag, environ[variable]))
            except (ValueError, OSError) as error:
                raise ArgumentError(f'error while handling environment variable "{variable}": {error}') from None


def _from_words(argv: Sequence[str]) -> Iterator[Argument]:
    words = iter(argv)
    for word in words:
        given, equals, text = word.partition("=")
        name = given.replace("_", "-") if given.startswith("--") else given
        flag, on = _NAMES.get(name) or _OFF.get(name) or (None, True)
        if flag is None or (equals and (flag.read is None or not name.startswith("--"))):
            raise ArgumentError(_not_understood(name, equals + text))
        if flag.read is None:
            yield Argument(name, flag, on)
            continue
        value = text if equals else next(words, None)
        if value is None:
            raise _wrong_value(name, flag, "expected value for argument")
        try:
            yield Argument(name, flag, _value(flag, value))
        except (ValueError, OSError) as error:
            raise _wrong_value(name, flag, error) from None


def _value(flag: Flag, text: str) -> Any:  # noqa: ANN401 (whatever the flag takes)
    return flag.read(text) if flag.read is not None else True


def _not_understood(name: str, rest: str) -> str:
    if advice := _REMOVED.get(name):
        return f'error while handling argument "{name}": the argument has been removed. {advice}'
    if name in ELSEWHERE or name.startswith(FAMILIES):
        return f"error: {name}: the server in the xllamacpp wheel has no such flag, as llama-server may have: {REMEDY}"
    return f"error: invalid argument: {name}{rest}"


def _wrong_value(name: str, flag: Flag, reason: object) -> ArgumentError:
    return ArgumentError(
        f'error while handling argument "{name}": {reason}\n\n'
        f"usage:\n{_usage_of(flag)}\n\nto show complete usage, run with -h"
    )


def _usage_of(flag: Flag) -> str:
    return ", ".join([*flag.names.split(), *flag.off.split()]) + ("" if flag.read is None else " VALUE")
