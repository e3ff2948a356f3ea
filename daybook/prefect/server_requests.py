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
    each, and a deployment likewise, so that a change of a run's state has 8 to 12 statements instead
    of 5 to 7.
    """
    try:
        from prefect.server import models
        from prefect.server.database import orm_models as rows

        runs, deployments = models.flow_runs, models.deployments
        for function, names in (
            (runs.read_flow_run, ["db", "session", "flow_run_id", "for_update"]),
            (deployments.read_deployment, ["db", "session", "deployment_id"]),
        ):
            if list(inspect.signature(function).parameters) != names:
                raise LookupError(f"{function.__name__} has other parameters")
        pool = joinedload(rows.WorkQueue.work_pool)
        of_run = [joinedload(rows.FlowRun._state), joinedload(rows.FlowRun.work_queue).options(pool)]
        of_deployment = [joinedload(rows.Deployment.work_queue).options(pool)]
    except (ImportError, AttributeError, LookupError, TypeError, ValueError) as error:
        logger.warning("Prefect's server reads a run in several statements: %s", error)
        return False

    @wraps(runs.read_flow_run)
    async def read_flow_run(session: Any, flow_run_id: Any, for_update: bool = False) -> Any:
        run = select(rows.FlowRun).where(rows.FlowRun.id == flow_run_id).options(*of_run)
        if for_update:
            run = run.with_for_update(of=rows.FlowRun)
        return (await session.execute(run)).scalar()

    @wraps(deployments.read_deployment)
    async def read_deployment(session: Any, deployment_id: Any) -> Any:
        return await session.get(rows.Deployment, deployment_id, options=of_deployment)

    runs.read_flow_run, deployments.read_deployment = read_flow_run, read_deployment
    return True


def call_dependencies_directly() -> bool:
    """Make this process's server call the quick dependencies of an endpoint in its event loop.

    By default, it calls each in another thread, three or four for a request. A switch to a thread
    and back costs more than all of them.
    """
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

    vars(utils)["run_in_threadpool"] = call
    return True


class DefaultContentType:
    """ASGI middleware that gives a request with a body and without a type the type JSON.

    It is Prefect's middleware `default_content_type`, without the task group and the streams with
    which Starlette runs a middleware that is a function.
    """

    NAME = "default_content_type"
    METHODS = frozenset({"POST", "PUT", "PATCH"})

    def __init__(self, app: Any) -> None:
        self._application = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http" and scope["method"] in self.METHODS:
            headers = dict(scope["headers"])
            if b"content-type" not in headers and int(headers.get(b"content-length", 0)) > 0:
                json_type = (b"content-type", b"application/json")
                scope = {**scope, "headers": [*scope["headers"], json_type]}
        await self._application(scope, receive, send)


def default_type_without_streams() -> bool:
    """Make this process's server use `DefaultContentType` instead of its own middleware."""
    try:
        from prefect.server.api import server
        from starlette.middleware import Middleware
        from starlette.middleware.base import BaseHTTPMiddleware

        own = server.create_api_app
        if DefaultContentType.NAME not in own.__code__.co_names + own.__code__.co_varnames:
            raise LookupError(f"it has no {DefaultContentType.NAME}")
    except (ImportError, AttributeError, LookupError) as error:
        logger.warning("Prefect's server passes requests through streams: %s", error)
        return False

    @wraps(own)
    def create_api_app(*arguments: Any, **named: Any) -> Any:
        application = own(*arguments, **named)
        chain = application.user_middleware
        for place, each in enumerate(chain):
            dispatch = each.kwargs.get("dispatch")
            name = getattr(dispatch, "__name__", "")
            if each.cls is BaseHTTPMiddleware and name == DefaultContentType.NAME:
                chain[place] = Middleware(DefaultContentType)
        return application

    server.create_api_app = create_api_app
    return True
