"""OpenAI's images with its own SDK, through a real worker and a WebUI that it starts (the double)."""

from __future__ import annotations

from pathlib import Path

import pytest
from openai import BadRequestError, NotFoundError, OpenAI

from tests.support.gateway_thread import gateway_thread
from tests.support.painters import opened, webui
from tests.support.places import wait_for
from tests.support.processes import MakeWorker

pytestmark = pytest.mark.engine


def test_images_come_as_base64_or_as_urls_of_the_store(make_worker: MakeWorker, redis_url: str, tmp_path: Path) -> None:
    store = tmp_path / "store"
    store.mkdir()
    stored = {"RESULT_STORE": str(store), "RESULT_INLINE_BYTES": "20000", "RESULT_STORE_URL": "https://images.example"}
    worker = make_worker(RUN_LLM="false", **webui(tmp_path / "journal"), **stored)
    worker.wait_for("images_ready")
    with gateway_thread(redis_url) as url, OpenAI(base_url=f"{url}/v1", api_key="x", max_retries=0) as openai:
        wait_for(lambda: openai.models.list().data, "a model in the list")
        model = openai.models.list().data[0].id
        made = openai.images.generate(prompt="a cat", n=2, size="64x128", model=model, extra_body={"steps": 2})
        pictures = [opened(image.b64_json or "") for image in made.data or []]
        assert [(picture.format, picture.size) for picture in pictures] == [("PNG", (64, 128))] * 2
        assert made.size == "64x128"
        large = openai.images.generate(prompt="a cat", size="512x512", response_format="url", extra_body={"steps": 2})
        (image,) = large.data or []
        assert image.url is not None
        assert (store / image.url.rpartition("/")[2]).is_file()
        with pytest.raises(NotFoundError) as none:
            openai.images.generate(prompt="a cat", model="dall-e-3")
        assert (none.value.code, model in none.value.message) == ("model_not_found", True)
        with pytest.raises(BadRequestError) as wrong:
            openai.images.generate(prompt="a cat", size="100x100")
        assert wrong.value.param == "width"
