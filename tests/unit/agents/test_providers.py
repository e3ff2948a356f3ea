"""Provider names, keys from the environment, default models and settings of model agents."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any, get_args

import pytest
from genai_prices.data_snapshot import get_snapshot
from pydantic import ValidationError
from pydantic_ai.models import KnownModelName

from daybook.agents import candidates, kinds, providers
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
def test_the_part_before_a_colon_is_a_provider_if_one_has_that_name(
    written: str, provider: str, name: str
) -> None:
    assert providers.split_model(written) == (provider, name)


@pytest.mark.parametrize(
    "model", ["mistral:7b", "mistral:latest", "deepseek:7b", "cohere:x", "llama3:8b", "llama3"]
)
def test_with_a_base_url_a_name_with_a_colon_stays_a_model_name(model: str) -> None:
    given = settings(model, base_url="http://127.0.0.1:11434/v1", api_key="k-12345678")
    providers.check(given)
    assert providers.model(given).model_name == model
    assert providers.model(settings("x", base_url="http://h/v1"), model).model_name == model


@pytest.mark.parametrize(
    "url",
    ["http://127.0.0.1:1 /v1", " http://h/v1", "http://h/v1 ", "http://h/ v1", "http://h/v1\n"],
)
def test_a_base_url_with_a_space_is_refused(url: str) -> None:
    with pytest.raises(ValidationError, match="contains a space; remove it"):
        settings("x", base_url=url)


@pytest.mark.parametrize("model", ["openai:x", "anthropic:x", "google:x", "ollama:x"])
def test_with_a_base_url_a_provider_that_accepts_one_is_recognized(model: str) -> None:
    given = settings(model, base_url="http://127.0.0.1:11434/v1", api_key="k-12345678")
    assert providers.model(given).model_name == "x"


KEYED = {"api_key": "k-12345678"}
HERE = {"base_url": "http://127.0.0.1:11434/v1"}


@pytest.mark.parametrize(
    ("own", "given", "model_name"),
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
def test_a_job_may_set_these_models(own: str, given: dict[str, str], model_name: str) -> None:
    providers.check(settings(own, **given), model_name)


@pytest.mark.parametrize(
    ("own", "given", "model_name", "words"),
    [
        ("openai:x", {}, "nosuch:y", '"nosuch:y" names no known provider'),
        ("openai:x", KEYED, "nosuch:y", '"openai:nosuch:y" if the name contains a colon'),
        ("openai:x", KEYED, "anthropic:y", "the agent's key or base URL is for openai"),
        ("openai:x", HERE, "anthropic:y", "the agent's key or base URL is for openai"),
        ("openai:x", {}, "groq:y", r"pydantic-ai-slim\[groq\]"),
        ("nosuch:x", {}, "y", '"nosuch:x" names no known provider'),
    ],
)
def test_a_job_may_not_set_these_models(
    own: str, given: dict[str, str], model_name: str, words: str
) -> None:
    with pytest.raises(AgentMisconfigured, match=words):
        providers.check(settings(own, **given), model_name)


def test_a_setting_that_a_provider_does_not_accept_is_refused_with_a_reason() -> None:
    class Keyless:
        def __init__(self, base_url: str) -> None: ...

    with pytest.raises(AgentMisconfigured) as caught:
        providers._arguments("lonely", Keyless, settings("a:b", api_key="k-1"))  # type: ignore[arg-type]
    assert str(caught.value) == (
        'the provider "lonely" accepts no api_key, because its SDK reads the worker\'s '
        "environment; remove the api_key from the agent"
    )


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("nosuch:model", '"nosuch:model" names no known provider'),
        ("groq:llama", r"pydantic-ai-slim\[groq\]"),
    ],
)
def test_an_unusable_provider_is_refused_by_check_and_at_use(model: str, words: str) -> None:
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
def test_a_missing_key_is_reported_by_its_variable_only_when_it_is_needed(
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
    monkeypatch.chdir(REPOSITORY)
    monkeypatch.setattr(sys, "prefix", str(REPOSITORY / ".venv"))
    own = settings(f"{extra}:x", base_url=base_url, api_key="k-12345678")
    for refused, model_name in ((own, ""), (settings("openai:x"), f"{extra}:x")):
        for function in (providers.check, providers.model):
            with pytest.raises(AgentMisconfigured) as caught:
                function(refused, model_name)
            assert str(caught.value) == (
                f'the SDK of the provider "{extra}" is not installed; run make install '
                "where the worker runs"
            )
    assert providers.model(settings("openai:x", api_key="k-12345678")).model_name == "x"


def test_the_extras_are_those_of_pyproject() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    extras = {**project["optional-dependencies"]}
    for name in ("otel", "redis", "slack", "telegram"):  # no providers
        assert extras.pop(name)
    assert set(extras) == set(providers.EXTRAS)
    for extra, requirements in extras.items():
        assert requirements == [f"pydantic-ai-slim[{extra}]"]
    assert dict(SDKS) == providers.EXTRAS


@pytest.mark.parametrize(
    ("prefix", "folder", "command"),
    [
        (REPOSITORY / ".venv", REPOSITORY, "make install"),
        (REPOSITORY / ".venv", Path("/"), f"make -C {REPOSITORY} install"),
        (Path("/opt/else"), REPOSITORY, "pip install 'prefect-daybook[anthropic]'"),
    ],
)
def test_the_command_that_installs_an_extra_works_where_it_is_shown(
    prefix: Path, folder: Path, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "prefix", str(prefix))
    monkeypatch.chdir(folder)
    hide_sdk(monkeypatch, "anthropic", "anthropic")
    monkeypatch.setenv("ANTHROPIC_API_KEY", "k-12345678")
    replace = "daybook agents add default --replace --model"
    assert candidates.offline_steps()[:2] == [
        ("install its SDK", command),
        ("ask a model", f"{replace} anthropic:claude-haiku-5-5 --key-env ANTHROPIC_API_KEY"),
    ]


def test_three_commands_change_an_offline_agent(monkeypatch: pytest.MonkeyPatch) -> None:
    replace = "daybook agents add default --replace"
    assert [command for _, command in candidates.offline_steps()] == [
        f"{replace} --model openai:gpt-6-luna --key-stdin",
        f"{replace} --preset claude-code",
        f"{replace} --model MODEL --base-url http://127.0.0.1:11434/v1",
    ]
    monkeypatch.setenv("GOOGLE_API_KEY", "k-12345678")
    _, command = candidates.offline_steps()[0]
    assert command == f"{replace} --model google:gemini-3.8-flash --key-env GOOGLE_API_KEY"


def test_an_agent_without_a_key_can_use_another_provider(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "k-12345678")
    model = providers.model(settings("openai:gpt-6-luna"), "anthropic:claude-haiku-4-5")
    assert (model.system, model.model_name) == ("anthropic", "claude-haiku-4-5")


# --- first start


def test_without_a_key_in_the_environment_none_is_found() -> None:
    assert providers.find_keys({}) == []


@pytest.mark.parametrize(
    ("environment", "variable"),
    [
        ({"OPENAI_API_KEY": "a", "ANTHROPIC_API_KEY": "b", "GEMINI_API_KEY": "c"}, "OPENAI"),
        ({"ANTHROPIC_API_KEY": "b", "GEMINI_API_KEY": "c"}, "ANTHROPIC"),
        ({"OPENAI_API_KEY": " ", "GEMINI_API_KEY": "c"}, "GEMINI"),
        ({"GOOGLE_API_KEY": "c"}, "GOOGLE"),
    ],
)
def test_the_first_key_in_order_decides(environment: dict[str, str], variable: str) -> None:
    found = providers.find_keys(environment)[0]
    assert found.variable == f"{variable}_API_KEY"
    assert found.key == environment[found.variable]
    assert "key=" not in repr(found)


@pytest.mark.parametrize(
    ("others", "variable", "missing"),
    [
        ({}, "ANTHROPIC_API_KEY", "anthropic"),
        ({"GEMINI_API_KEY": "c"}, "GEMINI_API_KEY", ""),
    ],
)
def test_a_key_whose_sdk_is_missing_is_the_last_choice(
    others: dict[str, str], variable: str, missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    hide_sdk(monkeypatch, "anthropic", "anthropic")
    found = providers.find_keys({"ANTHROPIC_API_KEY": "b", **others})[0]
    assert (found.variable, found.missing_extra) == (variable, missing)


@pytest.mark.parametrize("model", sorted(set(providers.DEFAULT_MODELS.values())))
def test_the_default_models_are_known_and_have_a_small_price(model: str) -> None:
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
        ({"model": ""}, "model", "use provider:name"),
        ({"model": "openai: x"}, "model", "use provider:name"),
        ({"model": "gpt-6-luna"}, "base_url", "openai:gpt-6-luna"),
        ({"model": "a:b", "base_url": "localhost:8000"}, "base_url", "http://"),
        ({"model": "a:b", "base_url": "http://"}, "base_url", "http://"),
        ({"model": "a:b", "base_url": "http://h:99999"}, "base_url", "http://"),
        ({"model": "a:b", "base_url": "http://me:pw@h/v1"}, "base_url", "password"),
        ({"model": "a:b", "base_url": "http://h/v1?key=s3cret"}, "base_url", "query"),
        ({"model": "a:b", "api_key": "two words"}, "api_key", "not allowed in a key"),
        ({"model": "a:b", "api_key": "line\n"}, "api_key", "not allowed in a key"),
        ({"model": "a:b", "options": {"heat": 1}}, "options", "heat: "),
        ({"model": "a:b", "options": {"temperature": "hot"}}, "options", "temperature: "),
        ({"model": "a:b", "options": {"max_tokens": 0}}, "options", "max_tokens: "),
        ({"model": "a:b", "options": {"max_retries": 3}}, "options", "max_retries: "),
        ({"model": "a:b", "request_limit": -1}, "request_limit", "greater"),
        ({"model": "a:b", "input_price": -1}, "input_price", "greater"),
        ({"model": "a:b", "output_price": float("nan")}, "output_price", "finite"),
    ],
)
def test_errors_in_settings_name_the_field_and_quote_no_secret(
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
def test_only_a_provider_with_a_similar_name_is_suggested(written: str, meant: str) -> None:
    message = str(providers._unknown(written))
    assert ("did you mean" in message) == bool(meant)
    assert message.endswith(f"; did you mean {meant}?" if meant else "google:")


def test_the_known_fields_are_listed_only_for_an_unknown_field() -> None:
    with pytest.raises(InvalidInput) as caught:
        kinds.MODEL.validate({"model": "a:b", "request_limit": -1})
    assert caught.value.hint == ""
    with pytest.raises(InvalidInput) as caught:
        kinds.MODEL.validate({"model": "a:b", "modelle": "c:d"})
    assert "known: model, base_url" in caught.value.hint


def test_a_key_is_plain_in_the_stored_data_and_hidden_in_displayed_data() -> None:
    made = kinds.MODEL.validate({"model": "openai:x", "api_key": "k-1", "options": {}})
    data = block_data(made)
    assert data["api_key"] == "k-1"
    assert kinds.MODEL.displayed(data)[0]["api_key"] == "********"
    assert kinds.MODEL.displayed(data | {"api_key": ""})[0]["api_key"] == ""
    assert "k-1" not in repr(made) + str(made) + made.model_dump_json()


def test_options_are_stored_as_given_zero_included() -> None:
    made = settings("openai:x", options={"temperature": 0, "thinking": "low", "seed": None})
    assert made.options == {"temperature": 0, "thinking": "low"}


def test_a_validation_error_does_not_contain_the_key() -> None:
    with pytest.raises(InvalidInput) as caught:
        kinds.MODEL.validate({"model": "openai:x", "api_key": "hunter2 hunter2"})
    assert "hunter2" not in str(caught.value)


def test_the_settings_do_not_import_the_client_libraries() -> None:
    expected = (
        "import sys; import daybook.agents.kinds, daybook.agents.failures; "
        "import daybook.agents.providers; "
        "heavy = ('pydantic_ai', 'openai', 'anthropic', 'google.genai', 'prefect'); "
        "print([m for m in heavy if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", expected], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
