"""Python functions as tools: schema, results, errors, timeouts and secrets."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from daybook.errors import InvalidInput, UnknownName
from daybook.http.guard import Guard, Rule
from daybook.http.secrets import Secret
from daybook.ledger.states import Status
from daybook.redaction import HIDDEN
from daybook.tools import answers, calls, catalog, python_tools
from daybook.tools.base import CallResult
from tests.contract.tools.conftest import Saved
from tests.unit.tools.conftest import Install

pytestmark = pytest.mark.anyio

SOURCE = '''
import asyncio, dataclasses, datetime, pydantic, sys, threading
from daybook.errors import Temporary
from daybook.tools import occurrence

def add(a: int, b: int = 0) -> int:
    """Add two numbers."""
    return a + b

async def later(a: int) -> int:
    return a

def day(when: datetime.date) -> str:
    return when.strftime("%A")

def fail(words: str):
    raise LookupError(words)

def not_now():
    raise Temporary("the index is being built", retry_after=90)

async def not_now_either():
    raise Temporary("busy")

def leave():
    sys.exit("bye")

def give_up():
    raise asyncio.CancelledError("the browser")

async def give_up_too():
    raise asyncio.CancelledError("the browser")

def known_as() -> str:
    return occurrence()

async def known_as_too() -> str:
    return occurrence()

@dataclasses.dataclass
class Found:
    name: str
    score: float

def found() -> list[Found]:
    return [Found("a", float("nan"))]

def nothing() -> None:
    pass

def visit(url: pydantic.AnyUrl) -> str:
    return "seen"

def endless() -> list:
    made = []
    made.append(made)
    return made

def long() -> str:
    return "€" * 2**20

def positional(a, /):
    return a

def say(text: str) -> str:
    return text

def anything(**params):
    return params

async def forever():
    try:
        await asyncio.Event().wait()
    finally:
        ENDED.set()

def out_of_time() -> None:
    raise TimeoutError("the database")

async def out_of_time_too() -> None:
    raise TimeoutError("the database")

ENDED, AT_WORK, GO_ON = threading.Event(), threading.Event(), threading.Event()

def blocked() -> str:
    AT_WORK.set()
    GO_ON.wait()
    ENDED.set()
    return "done"

class Caller:
    async def __call__(self, a: int) -> int:
        return a
called = Caller()
constant = 5
'''
NAMES = [
    "add",
    "later",
    "day",
    "fail",
    "not_now",
    "not_now_either",
    "leave",
    "give_up",
    "give_up_too",
    "known_as",
    "known_as_too",
    "found",
    "nothing",
    "endless",
    "visit",
    "long",
    "positional",
    "say",
    "anything",
    "forever",
    "out_of_time",
    "out_of_time_too",
    "blocked",
    "called",
    "constant",
    "Caller",
]


@pytest.fixture(autouse=True)
def tools(install: Install) -> None:
    install(SOURCE, **{name: name for name in NAMES})


def module() -> Any:
    """Return the module of the tools, whose events show their progress."""
    import importlib
    from importlib.metadata import entry_points

    (entry,) = entry_points(group="daybook.tools", name="blocked")
    return importlib.import_module(entry.module)


async def call(
    name: str, timeout: float = 60, idempotent: bool = False, saved: Saved | None = None, **p: Any
) -> CallResult:
    saved = saved or Saved()
    prepared = await calls.prepare(name, p, "request:x:1", saved, saved, Guard(Rule.AGENT))
    return await calls.call(prepared, timeout=timeout, idempotent=idempotent)


@pytest.mark.parametrize("name", ["add", "later", "called"])
async def test_a_function_is_called_with_its_params(name: str) -> None:
    outcome = (await call(name, a=2)).outcome
    assert (outcome.status, outcome.output) == (Status.SUCCEEDED, "2")
    assert outcome.result == {"tool_name": name, "params": {"a": 2}, "result": 2}


async def test_a_tool_is_described_by_its_function() -> None:
    info = await catalog.find("add", Saved(), Guard(Rule.AGENT))
    assert (info.description, info.source) == ("Add two numbers.", "python")
    assert set(info.schema["properties"]) == {"a", "b"}
    assert info.schema["required"] == ["a"]


@pytest.mark.parametrize(
    ("name", "params", "expected"),
    [
        ("add", {}, "'a' is a required property"),
        ("add", {"a": "5"}, "'5' is not of type 'integer'"),
        ("add", {"a": 5, "c": 1}, "'c' was unexpected"),
    ],
    ids=["missing", "of another type", "unknown"],
)
async def test_parameters_that_do_not_match_the_schema_are_refused(
    name: str, params: dict[str, Any], expected: str
) -> None:
    with pytest.raises(InvalidInput, match=expected) as caught:
        await call(name, **params)
    assert caught.value.field == "params"


async def test_a_parameter_is_converted_to_the_annotated_type() -> None:
    assert (await call("day", when="2026-11-20")).outcome.output == "Friday"


async def test_a_function_with_keyword_arguments_takes_all_parameters() -> None:
    assert (await call("anything", x=1, y=[2])).outcome.result["result"] == {"x": 1, "y": [2]}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("positional", "an argument that cannot be passed by name"),
        ("constant", "is not a function"),
        ("Caller", "is not a function"),
    ],
)
async def test_an_object_that_cannot_be_a_tool_is_refused(name: str, expected: str) -> None:
    with pytest.raises(InvalidInput, match=expected):
        await call(name)


async def test_an_exception_fails_the_run_without_a_retry() -> None:
    called = await call("fail", idempotent=True, words="no index")
    assert (called.outcome.status, called.temporary) == (Status.FAILED, False)
    assert called.outcome.error == "LookupError: no index"
    assert called.outcome.result is None


@pytest.mark.parametrize(("name", "asked"), [("not_now", 90), ("not_now_either", None)])
async def test_a_temporary_exception_is_retried(name: str, asked: float | None) -> None:
    called = await call(name)
    assert (called.outcome.status, called.temporary) == (Status.FAILED, True)
    assert called.retry_after == asked


async def test_a_system_exit_in_a_tool_fails_only_the_run() -> None:
    called = await call("leave")
    assert called.outcome.status is Status.FAILED
    assert "SystemExit: bye" in str(called.outcome.error)


@pytest.mark.parametrize("name", ["give_up", "give_up_too"])
async def test_a_cancellation_that_a_tool_raises_itself_fails_only_the_run(name: str) -> None:
    called = await call(name)
    assert called.outcome.status is Status.FAILED
    assert "CancelledError: the browser" in str(called.outcome.error)


@pytest.mark.parametrize("name", ["known_as", "known_as_too"])
async def test_a_tool_can_read_the_occurrence_of_its_call(name: str) -> None:
    assert (await call(name)).outcome.output == "request:x:1"
    from daybook.tools import occurrence

    assert occurrence() == ""


async def test_a_returned_value_is_stored_as_json() -> None:
    outcome = (await call("found")).outcome
    assert outcome.result["result"] == [{"name": "a", "score": "NaN"}]


async def test_a_return_of_none_is_a_success_without_output() -> None:
    outcome = (await call("nothing")).outcome
    assert (outcome.status, outcome.output) == (Status.SUCCEEDED, "")
    assert outcome.result["result"] is None


async def test_a_value_that_json_cannot_express_is_stored_as_text() -> None:
    assert (await call("endless")).outcome.output == "[[...]]"


def test_a_value_without_a_representation_is_stored_as_its_type() -> None:
    value: list[Any] = []
    for _ in range(200_000):
        value = [value]
    text, result = answers.from_python(value)
    assert text.kept.startswith("<list object at ")
    assert result == text.kept


async def test_a_long_answer_is_cut() -> None:
    outcome = (await call("long")).outcome
    assert outcome.output == outcome.result["result"] == "€" * (2**20 // 3)
    assert outcome.reason == "cut: longer than the 1,048,576 bytes that are kept"


async def test_a_timeout_cancels_an_async_tool() -> None:
    called = await call("forever", timeout=0.1)
    assert (called.outcome.status, called.temporary) == (Status.TIMED_OUT, False)
    assert module().ENDED.is_set()


async def test_an_idempotent_tool_is_retried_after_a_timeout() -> None:
    called = await call("forever", timeout=0.1, idempotent=True)
    assert (called.outcome.status, called.temporary) == (Status.TIMED_OUT, True)


@pytest.mark.parametrize("name", ["out_of_time", "out_of_time_too"])
async def test_a_timeout_error_raised_by_the_tool_is_a_failure(name: str) -> None:
    called = await call(name)
    assert called.outcome.status is Status.FAILED
    assert called.outcome.error == "TimeoutError: the database"


async def test_a_timed_out_call_waits_until_its_thread_has_ended() -> None:
    tools = module()
    task = asyncio.ensure_future(call("blocked", timeout=0.05))
    await asyncio.to_thread(tools.AT_WORK.wait)
    await asyncio.wait({task}, timeout=0.2)
    assert not task.done()
    tools.GO_ON.set()
    called = await task
    assert called.outcome.status is Status.TIMED_OUT
    assert "it ran in a thread, which cannot be stopped" in called.outcome.reason


async def test_a_cancelled_call_waits_until_its_thread_has_ended() -> None:
    tools = module()
    task = asyncio.ensure_future(call("blocked"))
    await asyncio.to_thread(tools.AT_WORK.wait)
    task.cancel()
    threading.Timer(0.2, tools.GO_ON.set).start()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert tools.ENDED.is_set()


async def test_a_secret_reaches_the_function_and_is_not_stored() -> None:
    saved = Saved(stored_secrets={"ops": Secret("ops", "hunter-2-and-more", ("tool:say",))})
    called = await call("say", saved=saved, text="it is {{secret:ops}}")
    assert called.outcome.output == f"it is {HIDDEN}"
    assert called.outcome.result["params"] == {"text": "it is {{secret:ops}}"}
    assert "hunter" not in repr(called)


async def test_a_secret_is_hidden_before_the_answer_or_the_error_is_cut() -> None:
    """The secret alone is longer than the stored length."""
    saved = Saved(
        stored_secrets={"ops": Secret("ops", "hunter-2" * 2**18, ("tool:say", "tool:fail"))}
    )
    called = await call("say", saved=saved, text="it is {{secret:ops}}")
    assert (called.outcome.output, called.outcome.reason) == (f"it is {HIDDEN}", "")
    called = await call("fail", saved=saved, words="{{secret:ops}}")
    assert called.outcome.error == f"LookupError: {HIDDEN}"


async def test_no_part_of_a_secret_is_in_the_error_of_a_parameter_of_another_type() -> None:
    secret = "".join(f"{number:04}" for number in range(20))
    saved = Saved(stored_secrets={"ops": Secret("ops", secret, ("tool:visit",))})
    called = await call("visit", saved=saved, url="{{secret:ops}}")
    error = called.outcome.error or ""
    assert error.startswith("ValidationError: url: ")
    assert not any(secret[at : at + 8] in error for at in range(len(secret) - 8))


async def test_a_parameter_that_looks_like_a_secret_is_refused() -> None:
    with pytest.raises(InvalidInput, match="looks like a secret"):
        await call("say", text="ghp_" + "a1" * 20)


async def test_a_secret_of_another_tool_is_refused() -> None:
    saved = Saved(stored_secrets={"ops": Secret("ops", "hunter-2-and-more", ("tool:add", "say"))})
    with pytest.raises(InvalidInput, match='the secret "ops" is not for tool:say'):
        await call("say", saved=saved, text="{{secret:ops}}")


async def test_an_unknown_tool_is_refused_with_the_known_names() -> None:
    with pytest.raises(UnknownName) as caught:
        await call("known_at")
    assert "known_as" in caught.value.known


async def test_a_name_that_is_both_a_function_and_a_servers_tool_is_refused(
    install: Install,
) -> None:
    install("def reindex(): pass", **{"search.reindex": "reindex"})
    saved = Saved({"search": {"command": ["no-such-program"]}})
    with pytest.raises(InvalidInput, match="ambiguous"):
        await call("search.reindex", saved=saved)
    assert (await call("search.reindex")).outcome.status is Status.SUCCEEDED


async def test_a_tool_that_two_distributions_provide_is_refused(install: Install) -> None:
    install("def add(): pass", add="add")
    with pytest.raises(InvalidInput, match="several functions have its name"):
        await call("add")


async def test_a_tool_that_cannot_be_imported_does_not_hide_the_others(install: Install) -> None:
    install("import no_such_module", broken="broken")
    found, absent = await catalog.list_tools(Saved())
    assert "add" in {each.name for each in found}
    assert "ModuleNotFoundError" in absent["broken"]
    assert set(python_tools.names()) >= {"add", "broken"}


async def test_a_payload_is_filled_into_params_after_the_secrets() -> None:
    saved = Saved(stored_secrets={"ops": Secret("ops", "s3cr3t", ("tool:anything",))})
    params = {"n": "{{payload.n}}", "text": "<{{payload.text}}>", "key": "{{secret:ops}}"}
    payload = {"n": 7, "text": "{{secret:ops}} ghp_0123456789abcdefghij0123456789"}
    prepared = await calls.prepare(
        "anything", params, "request:x:1", saved, saved, Guard(Rule.AGENT), payload=payload
    )
    assert prepared.values == {"n": 7, "text": f"<{payload['text']}>", "key": "s3cr3t"}
    assert prepared.params == params
