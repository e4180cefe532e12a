"""A small Hugging Face Hub on loopback: enough of its HTTP for the real client to create, upload and download."""
import base64
import hashlib
import json
import re
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Dict, Iterator, List, Optional

TOKEN = 'hf_loopback'


@dataclass
class Hub:
    """What the server knows. Repositories map file names to contents, in the state of their last commit."""
    repositories: Dict[str, Dict[str, bytes]] = field(default_factory=dict)
    private: Dict[str, bool] = field(default_factory=dict)
    requests: List[str] = field(default_factory=list)
    uploads: Dict[str, bytes] = field(default_factory=dict)  # by sha256
    endpoint: str = ''

    def commit_of(self, repo: str) -> str:
        digest = hashlib.sha1()
        for name, data in sorted(self.repositories[repo].items()):
            digest.update(name.encode() + data)
        return digest.hexdigest()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = 'HTTP/1.1'

    def log_message(self, *args: Any) -> None:
        pass

    def _send(self, status: int, body: Any = b'', headers: Optional[Dict[str, str]] = None) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in {'Content-Type': 'application/json', **(headers or {})}.items():
            self.send_header(name, value)
        if 'Content-Length' not in (headers or {}):
            self.send_header('Content-Length', str(len(data)))
        self.end_headers()
        if self.command != 'HEAD':
            self.wfile.write(data)

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get('Content-Length') or 0))

    def _handle(self) -> None:
        self.hub.requests.append(f'{self.command} {self.path}')
        body = self._body()
        path = self.path.split('?')[0]
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
        if match := re.fullmatch(r'/api/models/([^/]+/[^/]+)/(preupload|commit|revision)/([^/]+)', path):
            return self._repository(match[1], match[2], body)
        if match := re.fullmatch(r'/([^/]+/[^/]+)/resolve/([^/]+)/(.+)', path):
            return self._resolve(match[1], match[3])
        return self._send(404, {'error': 'not found'})

    do_GET = do_HEAD = do_POST = do_PUT = _handle

    def _create(self, request: Dict[str, Any]) -> None:
        repo = f"{request.get('organization') or 'user'}/{request['name']}"
        url = f'{self.hub.endpoint}/{repo}'
        if repo in self.hub.repositories:
            return self._send(409, {'error': 'You already created this model repo', 'url': url})
        self.hub.repositories[repo] = {}
        self.hub.private[repo] = bool(request.get('private')) or request.get('visibility') == 'private'
        return self._send(200, {'url': url, 'name': repo, 'id': repo})

    def _lfs(self, request: Dict[str, Any]) -> Dict[str, Any]:
        return {'transfer': 'basic', 'objects': [
            {'oid': item['oid'], 'size': item['size'],
             'actions': {'upload': {'href': f"{self.hub.endpoint}/lfs/{item['oid']}", 'header': {}}}}
            for item in request['objects']]}

    def _repository(self, repo: str, action: str, body: bytes) -> None:
        if repo not in self.hub.repositories:
            return self._send(404, {'error': 'Repository not found'}, {'X-Error-Code': 'RepoNotFound'})
        if action == 'revision':
            siblings = [{'rfilename': name} for name in self.hub.repositories[repo]]
            return self._send(200, {'id': repo, 'modelId': repo, 'sha': self.hub.commit_of(repo), 'siblings': siblings})
        if action == 'preupload':
            return self._send(200, {'files': [
                {'path': item['path'], 'shouldIgnore': False,
                 'uploadMode': 'lfs' if item['path'].endswith('.safetensors') else 'regular'}
                for item in json.loads(body)['files']]})
        files = dict(self.hub.repositories[repo])
        for line in body.decode().splitlines():
            entry = json.loads(line)
            value = entry['value']
            if entry['key'] == 'file':
                files[value['path']] = base64.b64decode(value['content'])
            elif entry['key'] == 'lfsFile':
                files[value['path']] = self.hub.uploads[value['oid']]
            elif entry['key'] == 'deletedFile':
                files.pop(value['path'])
        self.hub.repositories[repo] = files
        commit = self.hub.commit_of(repo)
        return self._send(200, {
            'success': True, 'commitOid': commit, 'commitUrl': f'{self.hub.endpoint}/{repo}/commit/{commit}',
            'hookOutput': ''})

    def _resolve(self, repo: str, name: str) -> None:
        if repo not in self.hub.repositories:
            return self._send(401, {'error': 'Repository not found'}, {'X-Error-Code': 'RepoNotFound'})
        if name not in self.hub.repositories[repo]:
            return self._send(404, {'error': 'Entry not found'}, {'X-Error-Code': 'EntryNotFound'})
        data = self.hub.repositories[repo][name]
        return self._send(200, data, {
            'X-Repo-Commit': self.hub.commit_of(repo), 'ETag': f'"{hashlib.sha256(data).hexdigest()}"',
            'Content-Length': str(len(data)), 'Content-Type': 'application/octet-stream'})


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
