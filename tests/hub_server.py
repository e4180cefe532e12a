"""A small Hugging Face Hub on loopback: enough of its HTTP for the real client to create, upload and download."""
import base64
import hashlib
import json
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

TOKEN = 'hf_loopback'


Files = dict[str, bytes]


@dataclass
class Hub:
    """What the server knows, and how it fails.

    Attributes:
        refs: Of each repository, its branches, tags and commits, each with its files.
        private: Whether a repository needs a token to be read.
        requests: All requests so far, as 'METHOD PATH', and what part of a file they ask for.
        uploads: Uploaded large files by sha256.
        failures: Answers that a request gets instead, each once: (part of 'METHOD PATH', status).
        cuts: Requests whose connection is cut, each once, after so many bytes of the body: (part of 'METHOD PATH', n).
        endpoint: Address of the server.
    """
    refs: dict[str, dict[str, Files]] = field(default_factory=dict)
    private: dict[str, bool] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    uploads: Files = field(default_factory=dict)
    failures: list[tuple[str, int]] = field(default_factory=list)
    cuts: list[tuple[str, int]] = field(default_factory=list)
    endpoint: str = ''

    def files(self, repo: str, revision: str = 'main') -> Files:
        return self.refs[repo][revision]

    def commit(self, repo: str, files: Files, branch: str = 'main') -> str:
        oid = commit_of(files)
        self.refs[repo].update({branch: files, oid: files})
        return oid

    def take(self, faults: list[tuple[str, int]], request: str) -> int | None:
        """The first fault that is meant for a request, which then is over."""
        for fault in faults:
            if fault[0] in request:
                faults.remove(fault)
                return fault[1]
        return None


def commit_of(files: Files) -> str:
    digest = hashlib.sha1()
    for name, data in sorted(files.items()):
        digest.update(name.encode() + data)
    return digest.hexdigest()


def blob_of(data: bytes) -> str:
    """git's name of a file's content."""
    return hashlib.sha1(f'blob {len(data)}\0'.encode() + data).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = 'HTTP/1.1'

    def log_message(self, *args: Any) -> None:
        pass

    def _send(self, status: int, body: Any = b'', headers: dict[str, str] | None = None) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in {'Content-Type': 'application/json', **(headers or {})}.items():
            self.send_header(name, value)
        if 'Content-Length' not in (headers or {}):
            self.send_header('Content-Length', str(len(data)))
        self.end_headers()
        if self.command == 'HEAD':
            return
        cut = self.hub.take(self.hub.cuts, f'{self.command} {self.path}')
        self.wfile.write(data if cut is None else data[:cut])
        if cut is not None:
            self._hang_up()

    def _hang_up(self) -> None:
        self.wfile.flush()
        self.connection.shutdown(socket.SHUT_RDWR)
        self.close_connection = True

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get('Content-Length') or 0))

    def _handle(self) -> None:
        request = f'{self.command} {self.path}'
        self.hub.requests.append(f"{request} {self.headers.get('Range') or ''}".strip())
        if self.command == 'PUT' and (cut := self.hub.take(self.hub.cuts, request)) is not None:
            self.rfile.read(cut)
            return self._hang_up()
        body = self._body()
        if failure := self.hub.take(self.hub.failures, request):
            return self._send(failure, {'error': f'failed with {failure}'})
        path = unquote(self.path.split('?')[0])
        writes = self.command in ('POST', 'PUT') or path.startswith('/api/whoami')
        if writes and not path.startswith('/lfs/') and self.headers.get('Authorization') != f'Bearer {TOKEN}':
            return self._send(401, {'error': 'Invalid username or password.'})
        if path == '/api/whoami-v2':
            return self._send(200, {'name': 'user', 'type': 'user', 'orgs': [], 'auth': {'type': 'access_token'}})
        if path == '/api/repos/create':
            return self._create(json.loads(body))
        if path == '/api/validate-yaml':
            return self._send(200, {'errors': [], 'warnings': []})
        if match := re.fullmatch(r'/lfs/([0-9a-f]{64})', path):
            self.hub.uploads[match[1]] = body
            return self._send(200)
        if match := re.fullmatch(r'/(.+)\.git/info/lfs/objects/batch', path):
            return self._send(200, self._lfs(json.loads(body)), {'Content-Type': 'application/vnd.git-lfs+json'})
        if match := re.fullmatch(
                r'/api/models/([^/]+/[^/]+)/(preupload|commit|revision|tree|tag|branch)/([^/]+)', path):
            return self._repository(match[1], match[2], match[3], body)
        if match := re.fullmatch(r'/([^/]+/[^/]+)/resolve/([^/]+)/(.+)', path):
            return self._resolve(match[1], match[2], match[3])
        return self._send(404, {'error': 'not found'})

    do_GET = do_HEAD = do_POST = do_PUT = _handle

    def _create(self, request: dict[str, Any]) -> None:
        repo = f"{request.get('organization') or 'user'}/{request['name']}"
        url = f'{self.hub.endpoint}/{repo}'
        if repo in self.hub.refs:
            return self._send(409, {'error': 'You already created this model repo', 'url': url})
        self.hub.refs[repo] = {'main': {}}
        self.hub.private[repo] = bool(request.get('private')) or request.get('visibility') == 'private'
        return self._send(200, {'url': url, 'name': repo, 'id': repo})

    def _lfs(self, request: dict[str, Any]) -> dict[str, Any]:
        """Large files are to be uploaded, unless they are here already."""
        return {'transfer': 'basic', 'objects': [
            {'oid': item['oid'], 'size': item['size'], **({} if item['oid'] in self.hub.uploads else {
                'actions': {'upload': {'href': f"{self.hub.endpoint}/lfs/{item['oid']}", 'header': {}}}})}
            for item in request['objects']]}

    def _repository(self, repo: str, action: str, revision: str, body: bytes) -> None:
        refs = self.hub.refs.get(repo)
        if refs is None or not self._allowed(repo):
            return self._send(401, {'error': 'Repository not found'}, {'X-Error-Code': 'RepoNotFound'})
        if action in ('tag', 'branch'):
            name = json.loads(body)['tag'] if action == 'tag' else revision
            if name in refs:
                return self._send(409, {'error': 'Reference exists already'})
            refs[name] = refs[revision if action == 'tag' else 'main']
            return self._send(200, {})
        if revision not in refs:
            return self._send(404, {'error': 'Revision not found'}, {'X-Error-Code': 'RevisionNotFound'})
        files = dict(refs[revision])
        if action == 'revision':
            siblings = [{'rfilename': name} for name in files]
            return self._send(200, {'id': repo, 'modelId': repo, 'sha': commit_of(files), 'siblings': siblings})
        if action == 'tree':
            return self._send(200, [{'type': 'file', 'path': name, 'size': len(data), 'oid': blob_of(data)}
                                    for name, data in files.items()])
        if action == 'preupload':
            return self._send(200, {'files': [self._mode(item['path'], files) for item in json.loads(body)['files']]})
        for line in body.decode().splitlines():
            entry = json.loads(line)
            value = entry['value']
            if entry['key'] == 'file':
                files[value['path']] = base64.b64decode(value['content'])
            elif entry['key'] == 'lfsFile':
                files[value['path']] = self.hub.uploads[value['oid']]
            elif entry['key'] == 'deletedFile':
                files.pop(value['path'])
        commit = self.hub.commit(repo, files, revision)
        return self._send(200, {
            'success': True, 'commitOid': commit, 'commitUrl': f'{self.hub.endpoint}/{repo}/commit/{commit}',
            'hookOutput': ''})

    def _mode(self, path: str, files: Files) -> dict[str, Any]:
        """How a file is to be uploaded, and its present content by name, so that the client can see if it is new."""
        large = path.endswith(('.safetensors', '.onnx'))
        answer = {'path': path, 'shouldIgnore': False, 'uploadMode': 'lfs' if large else 'regular'}
        if path in files:
            answer['oid'] = hashlib.sha256(files[path]).hexdigest() if large else blob_of(files[path])
        return answer

    def _allowed(self, repo: str) -> bool:
        return not self.hub.private.get(repo) or self.headers.get('Authorization') == f'Bearer {TOKEN}'

    def _resolve(self, repo: str, revision: str, name: str) -> None:
        if repo not in self.hub.refs or not self._allowed(repo):
            return self._send(401, {'error': 'Repository not found'}, {'X-Error-Code': 'RepoNotFound'})
        if revision not in self.hub.refs[repo]:
            return self._send(404, {'error': 'Revision not found'}, {'X-Error-Code': 'RevisionNotFound'})
        files = self.hub.files(repo, revision)
        if name not in files:
            return self._send(404, {'error': 'Entry not found'}, {'X-Error-Code': 'EntryNotFound'})
        data = files[name]
        headers = {'X-Repo-Commit': commit_of(files), 'ETag': f'"{hashlib.sha256(data).hexdigest()}"',
                   'Content-Type': 'application/octet-stream'}
        wanted = re.fullmatch(r'bytes=(\d+)-', self.headers.get('Range') or '')
        if wanted:
            start = int(wanted[1])
            headers['Content-Range'] = f'bytes {start}-{len(data) - 1}/{len(data)}'
            return self._send(206, data[start:], {**headers, 'Content-Length': str(len(data) - start)})
        return self._send(200, data, {**headers, 'Content-Length': str(len(data))})


@contextmanager
def running_hub() -> Iterator[Hub]:
    """A Hub that lives as long as the block. Clients need its address in HF_ENDPOINT before they are imported."""
    hub = Hub()
    server = ThreadingHTTPServer(('127.0.0.1', 0), type('Handler', (_Handler,), {'hub': hub}))
    hub.endpoint = f'http://127.0.0.1:{server.server_port}'
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
