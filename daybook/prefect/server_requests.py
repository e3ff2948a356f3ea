"""Uses of private names of Prefect's server that make each of its requests cheaper.

The requests, their answers, and what they write stay the same. Each function checks the names, and
logs a warning if they are not as expected; then the server has Prefect's own behaviour. It returns
whether the change succeeded. Call it before the server's application is created.
"""

from __future__ import annotations

import inspect
import logging
from functools import wraps
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import joinedload

logger = logging.getLogger(__name__)

QUICK_MODULES = frozenset(
    {
        "prefect.server.api.dependencies",
        "prefect.server.api.workers",
        "prefect.server.database.dependencies",
    }
)
"""Modules whose dependencies of endpoints only look at the request or at a variable."""


def read_in_one_statement() -> bool:
    """Make this process's server read a run or a deployment with its queue in one statement.

    By default, the server reads a run, its state, its queue and the queue's pool in a statement
    each, and a deployment likewise, so that a change of a run's state has 8 to 12 statements
    instead of 5 to 7. On PostgreSQL, a run that is about to be changed is read as before: if a
    statement waits for the lock of the run, it returns the new run without its new state.
    """
    try:
        from prefect.server import models
        from prefect.server.database import orm_models as rows

        runs, deployments = models.flow_runs, models.deployments
        own_run: Any = runs.read_flow_run
        own_deployment: Any = deployments.read_deployment
        for function, parameters, names in (
            (own_run, ["session", "flow_run_id", "for_update"], _NAMES_OF_READ_RUN),
            (own_deployment, ["session", "deployment_id"], _NAMES_OF_READ_DEPLOYMENT),
        ):
            code = inspect.unwrap(function).__code__
            has_parameters = list(inspect.signature(function).parameters) == ["db", *parameters]
            if not has_parameters or frozenset(code.co_names) != names:
                raise LookupError(f"{function.__name__} is not as expected")
        pool = joinedload(rows.WorkQueue.work_pool)
        of_run = [
            joinedload(rows.FlowRun._state),
            joinedload(rows.FlowRun.work_queue).options(pool),
        ]
        of_deployment = [joinedload(rows.Deployment.work_queue).options(pool)]
    except (ImportError, AttributeError, LookupError, TypeError, ValueError) as error:
        logger.warning("Prefect's server reads a run in several statements: %s", error)
        return False

    @wraps(own_run)
    async def read_flow_run(session: Any, flow_run_id: Any, for_update: bool = False) -> Any:
        if for_update and session.get_bind().dialect.name != "sqlite":
            return await own_run(session=session, flow_run_id=flow_run_id, for_update=True)
        run = select(rows.FlowRun).where(rows.FlowRun.id == flow_run_id).options(*of_run)
        return (await session.execute(run)).scalar()

    @wraps(own_deployment)
    async def read_deployment(session: Any, deployment_id: Any) -> Any:
        return await session.get(rows.Deployment, deployment_id, options=of_deployment)

    runs.read_flow_run, deployments.read_deployment = read_flow_run, read_deployment
    return True


_NAMES_OF_READ_RUN = frozenset(
    {
        *("sa", "select", "FlowRun", "where", "id", "options", "selectinload", "work_queue"),
        *("WorkQueue", "work_pool", "with_for_update", "execute", "scalar"),
    }
)
_NAMES_OF_READ_DEPLOYMENT = frozenset({"get", "Deployment"})
"""What the server's own functions use; another function may do more."""


def call_dependencies_directly() -> bool:
    """Make this process's server call the quick dependencies of an endpoint in its event loop.

    By default, it calls each in another thread, three or four for a request. A switch to a thread
    and back costs more than all of them.
    """
    utils: Any
    try:
        from fastapi.dependencies import utils

        own = utils.run_in_threadpool
        if "run_in_threadpool" not in utils.solve_dependencies.__code__.co_names:
            raise LookupError("its dependencies are called in another way")
    except (ImportError, AttributeError, LookupError) as error:
        logger.warning("Prefect's server calls small functions in threads: %s", error)
        return False

    @wraps(own)
    async def call(function: Any, *arguments: Any, **named: Any) -> Any:
        if getattr(function, "__module__", "") in QUICK_MODULES:
            return function(*arguments, **named)
        return await own(function, *arguments, **named)

    utils.run_in_threadpool = call
    return True


class DirectMiddleware:
    """ASGI middleware that calls a function of Starlette's ``@app.middleware("http")``.

    The function must either return a response of its own, or return the result of ``call_next`` as
    it is, and must not read the body. An endpoint must not send a request to the application: only
    Starlette's class gives that request a task of its own (Prefect's endpoints send none). That
    class also supports functions that change the response, for which it uses two streams.
    """

    def __init__(self, app: Any, dispatch: Any) -> None:
        self._application, self._dispatch = app, dispatch

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        from starlette.requests import Request

        if scope["type"] != "http":
            await self._application(scope, receive, send)
            return

        async def call_next(request: Any) -> None:
            await self._application(request.scope, receive, send)

        response = await self._dispatch(Request(scope, receive), call_next)
        if response is not None:
            await response(scope, receive, send)


_NAMES_OF_MIDDLEWARE = {
    "default_content_type": frozenset({"method", "headers", "int", "get", "scope"}),
    "token_validation": frozenset(
        {
            *("headers", "get", "scope", "removeprefix", "method", "upper", "JSONResponse"),
            *("status", "HTTP_401_UNAUTHORIZED", "split", "base64", "b64decode", "decode"),
            *("Exception", "hmac", "compare_digest"),
        }
    ),
}
"""Prefect's functions that `DirectMiddleware` may call, and the names that they use."""


def call_middleware_directly() -> bool:
    """Make this process's server call two of Prefect's functions by `DirectMiddleware`.

    The names that a function uses are compared when the server's application is created.
    """
    try:
        from prefect.server.api import server
        from starlette.middleware import Middleware
        from starlette.middleware.base import BaseHTTPMiddleware

        own = server.create_api_app
        code = own.__code__
        if not _NAMES_OF_MIDDLEWARE.keys() <= {*code.co_names, *code.co_varnames}:
            raise LookupError("it has other functions")
    except (ImportError, AttributeError, LookupError) as error:
        logger.warning("Prefect's server passes requests through streams: %s", error)
        return False

    @wraps(own)
    def create_api_app(*arguments: Any, **named: Any) -> Any:
        application = own(*arguments, **named)
        chain = application.user_middleware
        each: Any
        for place, each in enumerate(chain):
            dispatch = getattr(each, "kwargs", {}).get("dispatch")
            names = frozenset(getattr(getattr(dispatch, "__code__", None), "co_names", ()))
            name = getattr(dispatch, "__name__", "")
            expected = _NAMES_OF_MIDDLEWARE.get(name)
            if expected is None or each.cls is not BaseHTTPMiddleware:
                continue
            if names == expected:
                chain[place] = Middleware(DirectMiddleware, dispatch=dispatch)
            else:
                logger.warning(
                    "Prefect's %s has changed, so requests take a millisecond more", name
                )
        return application

    vars(server)["create_api_app"] = create_api_app
    return True
