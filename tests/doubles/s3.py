"""A small S3: it keeps objects, checks each request's signature, and fails as told.

Signatures are those of AWS Signature Version 4, in the Authorization header or in the query:
https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-authenticating-requests.html
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final
from urllib.parse import parse_qsl, quote, unquote

from tests.doubles.http_server import LIMIT, HTTPDouble, QuietHandler

ALGORITHM: Final = "AWS4-HMAC-SHA256"


@dataclass(frozen=True)
class Stored:
    """An object."""

    content: bytes
    content_type: str | None


class S3Double(HTTPDouble):
    """A server with one bucket.

    Attributes:
        objects: what was put, by ``bucket/key``.
        failures: the statuses of the next answers, used up one a request.
        answers: the status of every answer so far.
        stalls: whether requests are answered only when ``go_on`` is set.
    """

    def __init__(self) -> None:
        super().__init__(_Handler)
        self.bucket = "pictures"
        self.key_id = "AKIDTEST"
        self.secret = "made-up/secret"
        self.region = "eu-west-1"
        self.objects: dict[str, Stored] = {}
        self.failures: list[int] = []
        self.answers: list[int] = []
        self.stalls = False

    @property
    def environ(self) -> dict[str, str]:
        """The variables that lead a client here."""
        return {
            "AWS_ACCESS_KEY_ID": self.key_id,
            "AWS_SECRET_ACCESS_KEY": self.secret,
            "AWS_REGION": self.region,
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ALLOW_HTTP": "true",
        }

    def signature(self, scope: str, date: str, request: str) -> str:
        """Sign a canonical request."""
        key = f"AWS4{self.secret}".encode()
        for part in scope.split("/"):
            key = hmac.digest(key, part.encode(), "sha256")
        digest = hashlib.sha256(request.encode()).hexdigest()
        return hmac.new(key, f"{ALGORITHM}\n{date}\n{scope}\n{digest}".encode(), "sha256").hexdigest()


class _Handler(QuietHandler):
    def do_PUT(self) -> None:  # noqa: N802 (the standard library calls it so)
        double: S3Double = self.server.double
        body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        if double.stalls:
            double.go_on.wait(LIMIT)
        status = self._objection(body)
        if status == 200:
            double.objects[self._name()] = Stored(body, self.headers.get("Content-Type"))
        self._answer(status, b"", {"ETag": f'"{hashlib.sha256(body).hexdigest()}"'})

    def do_GET(self) -> None:  # noqa: N802 (the standard library calls it so)
        stored = self.server.double.objects.get(self._name())
        status = self._objection(b"")
        if status == 200 and stored is None:
            status = 404
        self._answer(status, stored.content if stored and status == 200 else b"", {})

    def _name(self) -> str:
        return unquote(self.path.partition("?")[0]).removeprefix("/")

    def _objection(self, body: bytes) -> int:
        """The status that the request deserves."""
        double: S3Double = self.server.double
        if double.failures:
            return double.failures.pop(0)
        if not (self._signed_header(body) or self._signed_query()):
            return 403
        return 200 if self._name().startswith(f"{double.bucket}/") else 404

    def _signed_header(self, body: bytes) -> bool:
        algorithm, _, rest = self.headers.get("Authorization", "").partition(" ")
        pairs = (part.strip().partition("=") for part in rest.split(","))
        fields = {name: value for name, _, value in pairs}
        digest = self.headers.get("x-amz-content-sha256", "")
        if algorithm != ALGORITHM or digest != hashlib.sha256(body).hexdigest():
            return False
        date = self.headers["x-amz-date"]
        return self._fresh(date, 900) and self._fits(fields, date, [], digest)

    def _signed_query(self) -> bool:
        query = dict(parse_qsl(self.path.partition("?")[2]))
        given = {name.removeprefix("X-Amz-"): value for name, value in query.items()}
        if given.get("Algorithm") != ALGORITHM or not self._fresh(given["Date"], int(given["Expires"])):
            return False
        signed = [(name, value) for name, value in query.items() if name != "X-Amz-Signature"]
        return self._fits(given, given["Date"], signed, "UNSIGNED-PAYLOAD")

    def _fits(self, fields: Mapping[str, str], date: str, query: Iterable[tuple[str, str]], digest: str) -> bool:
        key_id, _, scope = fields["Credential"].partition("/")
        double: S3Double = self.server.double
        if (key_id, scope) != (double.key_id, f"{date[:8]}/{double.region}/s3/aws4_request"):
            return False
        pairs = sorted(f"{quote(name, safe='')}={quote(value, safe='')}" for name, value in query)
        names = fields["SignedHeaders"].split(";")
        headers = [f"{name}:{' '.join(self.headers[name].split())}" for name in names]
        path = self.path.partition("?")[0]
        request = "\n".join([self.command, path, "&".join(pairs), *headers, "", fields["SignedHeaders"], digest])
        return "host" in names and hmac.compare_digest(fields["Signature"], double.signature(scope, date, request))

    def _fresh(self, date: str, seconds: int) -> bool:
        age = datetime.now(UTC) - datetime.strptime(date, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
        return timedelta(seconds=-900) <= age <= timedelta(seconds=seconds)

    def _answer(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
        self.server.double.answers.append(status)
        self.close_connection = True  # no thread waits for a next request
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body)), "Connection": "close"}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)
