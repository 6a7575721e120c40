from __future__ import annotations

import time

import pytest

from velesio_worker.core.secrets import hide_secrets


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("HF_TOKEN=hf_abc", "HF_TOKEN=***"),
        ("export AWS_SECRET_ACCESS_KEY=abc/def+g; next", "export AWS_SECRET_ACCESS_KEY=***; next"),
        ("env {'API_KEY': 'abc', 'A': '1'}", "env {'API_KEY': '***', 'A': '1'}"),
        ('{"redis_password": "abc"}', '{"redis_password": "***"}'),
        ("REDISPASSWORD=abc PGPASSWORD='a'", "REDISPASSWORD=*** PGPASSWORD='***'"),
        ("Authorization: Bearer abcdefg.h-i", "Authorization: Bearer ***"),
        ("redis://:abc@host:6379/0 and http://me:abc@h", "redis://:***@host:6379/0 and http://me:***@h"),
        ("run --api-key abc --port 1", "run --api-key *** --port 1"),
        ("print_info: EOS token        = 2 '</s>'", "print_info: EOS token        = 2 '</s>'"),
        ("n_head_key=64, max_token=5", "n_head_key=64, max_token=5"),
        ("http://127.0.0.1:8080/a", "http://127.0.0.1:8080/a"),
        ("monkey=banana", "monkey=banana"),
    ],
)
def test_what_looks_like_a_secret_is_hidden(line: str, shown: str) -> None:
    assert hide_secrets(line) == shown


@pytest.mark.parametrize("part", ["a", "key", "password", "://a:", "Bearer ", "token=", "--api-key ", '"'])
def test_a_long_line_takes_no_time(part: str) -> None:
    began = time.process_time()
    hide_secrets(part * (16_384 // len(part)))
    assert time.process_time() - began < 1
