"""``/openapi.json`` of the gateway that runs, and requests made up from it: each is answered as it says."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis.openapi
from hypothesis import given, settings
from schemathesis import checks
from schemathesis.specs.openapi import checks as openapi_checks

from tests.support.gateway import ALICE, GatewayProcess, WorkerInRedis
from tests.support.servers import RedisServer
from velesio_worker.gateway.app import operations
from velesio_worker.gateway.openapi import document

SCHEMA: Any = schemathesis.openapi.from_dict(document(operations()))  # whose types are known in part
OPERATIONS: dict[str, Any] = {found.ok().label: found.ok() for found in SCHEMA.get_all_operations()}
_BASIC: Any = checks
_OPENAPI: Any = openapi_checks
CHECKS = (_BASIC.not_a_server_error, _OPENAPI.content_type_conformance, _OPENAPI.status_code_conformance)


@pytest.fixture(scope="module")
def answering(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    """A gateway in front of a worker that refuses each job as it comes."""
    folder = tmp_path_factory.mktemp("openapi")
    with RedisServer(folder / "redis") as redis:
        worker, ends = WorkerInRedis(redis.client), threading.Event()
        worker.live()

        def refuse() -> None:
            while not ends.is_set():
                if (job := worker.take_if_any()) is not None:
                    worker.begin(job["id"])
                    worker.end(job["id"], 1, {"error": "data.prompt: none is right.", "code": "bad_job"})

        thread = threading.Thread(target=refuse)
        thread.start()
        try:
            with GatewayProcess(folder, redis.url, API_TOKENS=f"alice={ALICE}") as gateway:
                yield gateway
                assert not gateway.lines("request_failed")
                assert "Traceback" not in gateway.text()
        finally:
            ends.set()
            thread.join()


def test_it_is_what_the_gateway_serves(answering: GatewayProcess) -> None:
    with answering.client() as anybody:
        assert anybody.get("/openapi.json").json() == document(operations())


@pytest.mark.parametrize("label", OPERATIONS)
def test_requests_made_up_from_it_are_answered_as_it_says(answering: GatewayProcess, label: str) -> None:
    @settings(max_examples=15, deadline=None, database=None)
    @given(OPERATIONS[label].as_strategy())
    def ask(case: Any) -> None:
        response = case.call(base_url=answering.url, headers={"authorization": f"Bearer {ALICE}"}, timeout=30)
        case.validate_response(response, checks=CHECKS)

    ask()
