# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""The part of the Hub's HTTP API that pushing and loading a model use, on loopback and in memory."""

import base64
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

import yaml

TOKEN = "hf_" + "t" * 34
REPO = "some-user/some-student"


class FakeHub:
    """Use as a context manager. `repos` maps `user/name` to its files; `requests` lists what was asked for."""

    def __init__(self) -> None:
        self.repos: dict[str, dict[str, bytes]] = {}
        self.private: dict[str, Any] = {}
        self.large_files: dict[str, bytes] = {}  # by SHA-256
        self.requests: list[str] = []
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (HubHandler,), {"hub": self}))
        self.endpoint = f"http://127.0.0.1:{self.server.server_address[1]}"

    def __enter__(self) -> "FakeHub":
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    @property
    def environment(self) -> dict[str, str]:
        """Environment variables of a process that takes this for the Hub."""
        return {
            "HF_ENDPOINT": self.endpoint,
            "HF_TOKEN": TOKEN,
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "NO_PROXY": "127.0.0.1",
        }

    def commit_of(self, repo: str) -> str:
        digest = hashlib.sha1()
        for path, content in sorted(self.repos[repo].items()):
            digest.update(path.encode() + b"\0" + content)
        return digest.hexdigest()


class HubHandler(BaseHTTPRequestHandler):
    hub: FakeHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments: object) -> None:
        pass

    def do_GET(self) -> None:
        self.answer("GET")

    def do_HEAD(self) -> None:
        self.answer("HEAD")

    def do_POST(self) -> None:
        self.answer("POST")

    def do_PUT(self) -> None:
        self.answer("PUT")

    def answer(self, method: str) -> None:
        parts = unquote(urlsplit(self.path).path).strip("/").split("/")
        body = self.body() if method in ("POST", "PUT") else b""
        self.hub.requests.append(f"{method} {'/'.join(parts)}")
        writes = method in ("POST", "PUT") and parts[0] != "lfs"  # the storage is authorised by its URL
        if writes and self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self.reply(401, {"error": "no valid token"})
        if parts[:2] == ["api", "models"]:
            return self.model_api(method, "/".join(parts[2:4]), parts[4:], body)
        if parts[0] == "lfs":
            return self.store(parts[1], body)
        if parts[:3] == ["api", "repos", "create"]:
            return self.create(json.loads(body))
        if parts[:2] == ["api", "validate-yaml"]:
            return self.validate(json.loads(body)["content"])
        if parts[2:] == ["info", "lfs", "objects", "batch"]:
            return self.large_file_batch(json.loads(body))
        if len(parts) > 4 and parts[2] == "resolve":
            return self.download(method, "/".join(parts[:2]), "/".join(parts[4:]))
        self.reply(404, {"error": f"not part of this Hub: {method} {self.path}"})

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        chunks = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def reply(self, status: int, content: Any, **headers: str) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", headers.pop("Content_Length", str(len(data))))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(data)

    def create(self, request: dict[str, Any]) -> None:
        repo = f"{request['organization'] or 'user'}/{request['name']}"
        answer = {"url": f"{self.hub.endpoint}/{repo}", "name": repo, "id": repo}
        if repo in self.hub.repos:
            return self.reply(409, {"error": "You already created this model repo", **answer})
        self.hub.repos[repo] = {".gitattributes": b"*.safetensors filter=lfs\n"}
        self.hub.private[repo] = request.get("visibility") == "private" or request.get("private")
        self.reply(200, answer)

    def validate(self, card: str) -> None:
        metadata = yaml.safe_load(card.split("---")[1]) if card.startswith("---\n") else None
        errors = [] if isinstance(metadata, dict) else [{"message": "no metadata"}]
        self.reply(400 if errors else 200, {"errors": errors, "warnings": []})

    def large_file_batch(self, request: dict[str, Any]) -> None:
        objects = []
        for item in request["objects"]:
            upload = {"href": f"{self.hub.endpoint}/lfs/{item['oid']}", "header": {}}
            known = item["oid"] in self.hub.large_files
            objects.append({**item, **({} if known else {"actions": {"upload": upload}})})
        self.reply(200, {"transfer": "basic", "objects": objects})

    def store(self, oid: str, body: bytes) -> None:
        if hashlib.sha256(body).hexdigest() != oid:
            return self.reply(400, {"error": "content does not have this SHA-256"})
        self.hub.large_files[oid] = body
        self.reply(200, {})

    def model_api(self, method: str, repo: str, action: list[str], body: bytes) -> None:
        if repo not in self.hub.repos:
            return self.reply(404, {"error": "Repository not found"}, X_Error_Code="RepoNotFound")
        files, commit = self.hub.repos[repo], self.hub.commit_of(repo)
        if action[:1] == ["preupload"]:
            asked = json.loads(body)["files"]
            modes = [
                {
                    "path": item["path"],
                    "uploadMode": "lfs" if item["path"].endswith(".safetensors") else "regular",
                    "shouldIgnore": False,
                }
                for item in asked
            ]
            return self.reply(200, {"files": modes})
        if action[:1] == ["commit"]:
            return self.commit(repo, [json.loads(line) for line in body.splitlines() if line.strip()])
        if action[:1] == ["tree"]:
            entries = [
                {"type": "file", "path": path, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
                for path, content in files.items()
            ]
            return self.reply(200, entries)
        siblings = [{"rfilename": path} for path in files]
        card = files.get("README.md", b"").decode()
        metadata = yaml.safe_load(card.split("---")[1]) if card.startswith("---\n") else None
        described = {"siblings": siblings, "private": False, "tags": [], "cardData": metadata}
        self.reply(200, {"id": repo, "modelId": repo, "sha": commit, **described})

    def commit(self, repo: str, operations: list[dict[str, Any]]) -> None:
        files = self.hub.repos[repo]
        for operation in operations:
            value = operation["value"]
            if operation["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif operation["key"] == "lfsFile":
                files[value["path"]] = self.hub.large_files[value["oid"]]
            elif operation["key"] == "deletedFile":
                del files[value["path"]]
        commit = self.hub.commit_of(repo)
        self.reply(200, {"commitUrl": f"{self.hub.endpoint}/{repo}/commit/{commit}", "commitOid": commit})

    def download(self, method: str, repo: str, path: str) -> None:
        files = self.hub.repos.get(repo)
        if files is None:
            return self.reply(404, b"", X_Error_Code="RepoNotFound")
        commit = self.hub.commit_of(repo)
        if path not in files:
            return self.reply(404, b"", X_Error_Code="EntryNotFound", X_Repo_Commit=commit)
        content = files[path]
        headers = {"X_Repo_Commit": commit, "ETag": f'"{hashlib.sha1(content).hexdigest()}"'}
        if method == "HEAD":
            return self.reply(200, b"", Content_Length=str(len(content)), **headers)
        self.reply(200, content, **headers)
