"""Names of providers, keys from the environment, and what is said when they are missing."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from typing import Any, get_args

import pytest
from genai_prices.data_snapshot import get_snapshot
from pydantic_ai.models import KnownModelName

from daybook.agents import kinds, providers
from daybook.agents.model_settings import ModelSettings
from daybook.clock import SystemClock
from daybook.errors import AgentMisconfigured, InvalidInput
from daybook.resources.store import block_data
from tests.conftest import REPOSITORY


def settings(model: str, **given: Any) -> ModelSettings:
    return ModelSettings.model_validate({"model": model, **given})


@pytest.mark.parametrize(
    ("written", "provider", "name"),
    [
        ("openai:gpt-6-luna", "openai", "gpt-6-luna"),
        ("groq:llama:8b", "groq", "llama:8b"),
        ("llama3:8b", "", "llama3:8b"),
        ("llama3", "", "llama3"),
        (":x", "", ":x"),
        ("openai:", "", "openai:"),
    ],
)
def test_what_stands_before_a_colon_is_a_provider_if_one_is_called_so(
    written: str, provider: str, name: str
) -> None:
    assert providers.split_model(written) == (provider, name)


@pytest.mark.parametrize(
    "model", ["mistral:7b", "mistral:latest", "deepseek:7b", "cohere:x", "llama3:8b", "llama3"]
)
def test_at_a_base_url_names_are_taken_for_names(model: str) -> None:
    given = settings(model, base_url="http://127.0.0.1:11434/v1", api_key="k-12345678")
    providers.check(given)
    assert providers.model(given).model_name == model
    assert providers.model(settings("x", base_url="http://h/v1"), model).model_name == model


@pytest.mark.parametrize("model", ["openai:x", "anthropic:x", "google:x", "ollama:x"])
def test_at_a_base_url_a_provider_that_takes_one_is_a_provider(model: str) -> None:
    given = settings(model, base_url="http://127.0.0.1:11434/v1", api_key="k-12345678")
    assert providers.model(given).model_name == "x"


KEYED = {"api_key": "k-12345678"}
HERE = {"base_url": "http://127.0.0.1:11434/v1"}


@pytest.mark.parametrize(
    ("own", "given", "wanted"),
    [
        ("openai:x", KEYED, "y"),
        ("openai:x", KEYED, "openai:y"),
        ("openai:x", KEYED, "openai:ft:y::1"),
        ("openai:x", {}, "anthropic:y"),
        ("llama3:8b", HERE, "mistral:7b"),
        ("openai:x", HERE, "nosuch:7b"),
        ("openai:x", HERE | KEYED, "y"),
        ("nosuch", HERE, ""),
    ],
)
def test_the_model_that_a_job_may_want(own: str, given: dict[str, str], wanted: str) -> None:
    providers.check(settings(own, **given), wanted)


@pytest.mark.parametrize(
    ("own", "given", "wanted", "words"),
    [
        ("openai:x", {}, "nosuch:y", '"nosuch:y" names no known provider'),
        ("openai:x", KEYED, "nosuch:y", '"openai:nosuch:y" if that is its name'),
        ("openai:x", KEYED, "anthropic:y", "the agent's key or base URL is for openai"),
        ("openai:x", HERE, "anthropic:y", "the agent's key or base URL is for openai"),
        ("openai:x", {}, "groq:y", r"pydantic-ai-slim\[groq\]"),
        ("nosuch:x", {}, "y", '"nosuch:x" names no known provider'),
    ],
)
def test_the_model_that_a_job_may_not_want(
    own: str, given: dict[str, str], wanted: str, words: str
) -> None:
    with pytest.raises(AgentMisconfigured, match=words):
        providers.check(settings(own, **given), wanted)


def test_what_a_provider_does_not_take_is_told_in_a_sentence() -> None:
    class Keyless:
        def __init__(self, base_url: str) -> None: ...

    with pytest.raises(AgentMisconfigured) as caught:
        providers._arguments("lonely", Keyless, settings("a:b", api_key="k-1"))  # type: ignore[arg-type]
    assert str(caught.value) == (
        'the provider "lonely" accepts no api_key: its SDK reads the worker\'s environment instead'
    )


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("nosuch:model", '"nosuch:model" names no known provider'),
        ("groq:llama", r"pydantic-ai-slim\[groq\]"),
    ],
)
def test_a_provider_that_cannot_be_used_is_told_before_anything_is_stored(
    model: str, words: str
) -> None:
    with pytest.raises(AgentMisconfigured, match=words):
        providers.check(settings(model))
    with pytest.raises(AgentMisconfigured, match=words):
        providers.model(settings(model))


@pytest.mark.parametrize(
    ("model", "variable"),
    [
        ("openai:gpt-6-luna", "OPENAI_API_KEY"),
        ("anthropic:claude-haiku-5-5", "ANTHROPIC_API_KEY"),
        ("google:gemini-3.8-flash", "GOOGLE_API_KEY"),
        ("openrouter:some/model", "OPENROUTER_API_KEY"),
    ],
)
def test_a_missing_key_is_asked_for_by_its_name_and_only_when_it_is_needed(
    model: str, variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    providers.check(settings(model))
    with pytest.raises(AgentMisconfigured, match=variable) as caught:
        providers.model(settings(model))
    assert "test model" not in str(caught.value)
    monkeypatch.setenv(variable, "k-12345678")
    name = model.partition(":")[2]
    assert providers.model(settings(model)).model_name == name
    monkeypatch.delenv(variable)
    assert providers.model(settings(model, api_key="k-12345678")).model_name == name


SDKS = [("anthropic", "anthropic"), ("google", "google.genai")]


def hide_sdk(monkeypatch: pytest.MonkeyPatch, extra: str, sdk: str) -> None:
    """Make ``sdk`` not importable, as if ``extra`` were not installed."""
    importers = (f"pydantic_ai.providers.{extra}", f"pydantic_ai.models.{extra}")
    for name in list(sys.modules):
        if name.startswith((f"{sdk}.", *importers)):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, sdk, None)


@pytest.mark.parametrize(("extra", "sdk"), SDKS)
@pytest.mark.parametrize("base_url", ["", "http://127.0.0.1:11434/v1"])
def test_without_its_sdk_a_provider_is_refused_with_the_extra_to_install(
    extra: str, sdk: str, base_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    hide_sdk(monkeypatch, extra, sdk)
    own = settings(f"{extra}:x", base_url=base_url, api_key="k-12345678")
    for refused, wanted in ((own, ""), (settings("openai:x"), f"{extra}:x")):
        for function in (providers.check, providers.model):
            with pytest.raises(AgentMisconfigured) as caught:
                function(refused, wanted)
            assert str(caught.value) == (
                f'the SDK of the provider "{extra}" is not installed; install daybook[{extra}] '
                "where the worker runs"
            )
    assert providers.model(settings("openai:x", api_key="k-12345678")).model_name == "x"


def test_the_extras_are_those_of_pyproject() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    assert set(project["optional-dependencies"]) == set(providers.EXTRAS)
    for extra, requirements in project["optional-dependencies"].items():
        assert requirements == [f"pydantic-ai-slim[{extra}]"]
    assert dict(SDKS) == providers.EXTRAS


def test_an_agent_without_a_key_may_be_asked_for_any_provider(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "k-12345678")
    wanted = providers.model(settings("openai:gpt-6-luna"), "anthropic:claude-haiku-4-5")
    assert (wanted.system, wanted.model_name) == ("anthropic", "claude-haiku-4-5")


# --- first start


def test_without_a_key_there_is_no_first_model() -> None:
    assert providers.find_key() is None


@pytest.mark.parametrize(
    ("environment", "variable"),
    [
        ({"OPENAI_API_KEY": "a", "ANTHROPIC_API_KEY": "b", "GEMINI_API_KEY": "c"}, "OPENAI"),
        ({"ANTHROPIC_API_KEY": "b", "GEMINI_API_KEY": "c"}, "ANTHROPIC"),
        ({"OPENAI_API_KEY": " ", "GEMINI_API_KEY": "c"}, "GEMINI"),
        ({"GOOGLE_API_KEY": "c"}, "GOOGLE"),
    ],
)
def test_the_first_key_in_order_decides(
    environment: dict[str, str], variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    found = providers.find_key()
    assert found is not None
    assert found.variable == f"{variable}_API_KEY"
    assert found.key == environment[found.variable]
    assert "key=" not in repr(found)


@pytest.mark.parametrize(
    ("others", "variable", "missing"),
    [
        ({}, "ANTHROPIC_API_KEY", "daybook[anthropic]"),
        ({"GEMINI_API_KEY": "c"}, "GEMINI_API_KEY", ""),
    ],
)
def test_a_key_without_its_sdk_is_the_last_choice(
    others: dict[str, str], variable: str, missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    hide_sdk(monkeypatch, "anthropic", "anthropic")
    for name, value in {"ANTHROPIC_API_KEY": "b", **others}.items():
        monkeypatch.setenv(name, value)
    found = providers.find_key()
    assert found is not None
    assert (found.variable, found.missing_extra) == (variable, missing)


@pytest.mark.parametrize("model", sorted(set(providers.DEFAULT_MODELS.values())))
def test_the_first_models_are_known_and_have_a_small_price(model: str) -> None:
    assert model in get_args(KnownModelName.__value__)
    provider, name = model.split(":")
    _, found = get_snapshot().find_provider_model(name, None, provider, None)
    price: Any = found.get_prices(SystemClock().now())
    output = getattr(price.output_mtok, "base", price.output_mtok)
    assert 0 < output <= 10  # dollars for a million tokens


# --- settings


@pytest.mark.parametrize(
    ("given", "field", "words"),
    [
        ({}, "model", "required"),
        ({"model": ""}, "model", "provider and the model's name"),
        ({"model": "openai: x"}, "model", "provider and the model's name"),
        ({"model": "gpt-6-luna"}, "base_url", "openai:gpt-6-luna"),
        ({"model": "a:b", "base_url": "localhost:8000"}, "base_url", "http://"),
        ({"model": "a:b", "base_url": "http://"}, "base_url", "http://"),
        ({"model": "a:b", "base_url": "http://h:99999"}, "base_url", "http://"),
        ({"model": "a:b", "base_url": "http://me:pw@h/v1"}, "base_url", "password"),
        ({"model": "a:b", "base_url": "http://h/v1?key=s3cret"}, "base_url", "query"),
        ({"model": "a:b", "api_key": "two words"}, "api_key", "no key has"),
        ({"model": "a:b", "api_key": "line\n"}, "api_key", "no key has"),
        ({"model": "a:b", "options": {"heat": 1}}, "options", "heat: "),
        ({"model": "a:b", "options": {"temperature": "hot"}}, "options", "temperature: "),
        ({"model": "a:b", "options": {"max_tokens": 0}}, "options", "max_tokens: "),
        ({"model": "a:b", "options": {"max_retries": 3}}, "options", "max_retries: "),
        ({"model": "a:b", "request_limit": -1}, "request_limit", "greater"),
        ({"model": "a:b", "input_price": -1}, "input_price", "greater"),
        ({"model": "a:b", "output_price": float("nan")}, "output_price", "finite"),
    ],
)
def test_bad_settings_name_their_field_and_repeat_no_secret(
    given: dict[str, Any], field: str, words: str
) -> None:
    with pytest.raises(InvalidInput) as caught:
        kinds.MODEL.validate(given)
    assert caught.value.field == field
    assert words in caught.value.problem
    assert not [s for s in ("s3cret", "me:pw", "two words") if s in str(caught.value)]


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("opnai:gpt-4", "openai:gpt-4"),
        ("anthropc:claude", "anthropic:claude"),
        ("nosuchprovider:x", ""),
        ("gpt-4", ""),
    ],
)
def test_only_a_provider_that_is_really_near_is_suggested(written: str, meant: str) -> None:
    said = str(providers._unknown(written))
    assert ("did you mean" in said) == bool(meant)
    assert said.endswith(f"; did you mean {meant}?" if meant else "google:")


def test_the_fields_are_listed_for_one_that_is_unknown_only() -> None:
    with pytest.raises(InvalidInput) as caught:
        kinds.MODEL.validate({"model": "a:b", "request_limit": -1})
    assert caught.value.hint == ""
    with pytest.raises(InvalidInput) as caught:
        kinds.MODEL.validate({"model": "a:b", "modelle": "c:d"})
    assert "known: model, base_url" in caught.value.hint


def test_a_secret_is_plain_where_it_is_stored_and_hidden_where_it_is_shown() -> None:
    made = kinds.MODEL.validate({"model": "openai:x", "api_key": "k-1", "options": {}})
    data = block_data(made)
    assert data["api_key"] == "k-1"
    assert kinds.displayed_settings(kinds.MODEL, data)["api_key"] == "********"
    assert kinds.displayed_settings(kinds.MODEL, data | {"api_key": ""})["api_key"] == ""
    assert "k-1" not in repr(made) + str(made) + made.model_dump_json()


def test_options_are_stored_as_given_zero_included() -> None:
    made = settings("openai:x", options={"temperature": 0, "thinking": "low", "seed": None})
    assert made.options == {"temperature": 0, "thinking": "low"}


def test_a_validation_error_of_pydantics_own_does_not_hold_the_key() -> None:
    with pytest.raises(InvalidInput) as caught:
        kinds.MODEL.validate({"model": "openai:x", "api_key": "hunter2 hunter2"})
    assert "hunter2" not in str(caught.value)


def test_the_settings_are_known_without_importing_the_clients() -> None:
    told = (
        "import sys; import daybook.agents.kinds, daybook.agents.failures; "
        "import daybook.agents.providers; "
        "heavy = ('pydantic_ai', 'openai', 'anthropic', 'google.genai', 'prefect'); "
        "print([m for m in heavy if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
