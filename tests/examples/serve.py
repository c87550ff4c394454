# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Serves a student over HTTP and asks it by OpenAI's client: python tests/examples/serve.py --student student

The student is the folder that convert.py wrote. Needs `pip install '.[serve]'`.
"""

import argparse
import subprocess
import sys
import time
import urllib.request

from openai import OpenAI


def wait_for(server: subprocess.Popen[bytes], url: str, seconds: float = 300) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and server.poll() is None:
        try:
            urllib.request.urlopen(f"{url}/health", timeout=2).close()
            return
        except OSError:  # not yet
            time.sleep(0.5)
    raise RuntimeError(f"The server did not start, exit status {server.poll()}; what it said is above.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--student", default="student", help="folder")
    parser.add_argument("--prompt", default="It was a dark night, and the old man")
    parser.add_argument("--port", type=int, default=8001)
    parser.add_argument("--tokens", type=int, default=40, help="to write")
    options = parser.parse_args()

    command = [sys.executable, "-m", "hf_tc.cli.main", "serve", options.student, "--port", str(options.port)]
    server = subprocess.Popen(command)  # on the command line: hf-tc serve student --port 8001
    try:
        url = f"http://127.0.0.1:{options.port}"
        wait_for(server, url)
        client = OpenAI(base_url=f"{url}/v1", api_key="none")
        # The packaged teacher knows no chat; ask an instruct model by client.chat.completions.create(...).
        answer = client.completions.create(model=options.student, prompt=options.prompt, max_tokens=options.tokens)
        print(f"{options.prompt}{answer.choices[0].text}")
    finally:
        server.terminate()
        server.wait()


if __name__ == "__main__":
    main()
