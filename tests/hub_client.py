"""A user of the loopback Hub: each of his actions is a process, with the real client."""
import os

from hub_server import TOKEN
from processes import Process

HEADER = 'import sys, timm, timm_sbs, timm_sbs.cli.main\nfrom timm_sbs import SbsError\n'
PUSH = 'print(timm_sbs.load({folder!r}).push_to_hub({repo!r}, **{options!r}))'
DOWNLOAD = 'from timm_sbs.artifact.hub import download\nprint(download({name!r}))'
LOAD = ("model = timm.create_model({name!r}, pretrained=True)\n"
        "print('%.6f' % sum(p.double().abs().sum() for p in model.parameters()))")


class Client:
    """A user of the Hub with a cache of his own."""

    def __init__(self, hub, home, token=TOKEN):
        self.env = {
            **os.environ, 'HF_ENDPOINT': hub.endpoint, 'HF_HUB_DISABLE_XET': '1', 'HF_HOME': str(home),
            'HF_TOKEN': token}

    def start(self, code, **env):
        guarded = 'try:\n' + ''.join(f'    {line}\n' for line in code.splitlines()) + (
            'except SbsError as e:\n    sys.exit(f"SbsError: {e}")\n')
        return Process('-c', HEADER + guarded, env={**self.env, **env})

    def run(self, code, all_lines=False, **env):
        """What a process prints, or its last line; an SbsError is the last one."""
        done = self.start(code, **env).wait()
        assert 'Traceback' not in done.stderr, done.stderr
        lines = done.stdout.splitlines() + [line for line in done.stderr.splitlines() if line.startswith('SbsError')]
        return lines if all_lines else lines[-1]

    def push(self, folder, repo='user/small', **options):
        return self.run(PUSH.format(folder=str(folder), repo=repo, options=options))

    def load(self, name='hf-hub:user/small', **env):
        return self.run(LOAD.format(name=name), **env)
