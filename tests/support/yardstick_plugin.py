"""A plugin of pytest for diffusers' own tests, which `yardstick.py` runs: adapters on all that they build, and a note
of what becomes of each test."""

import functools
import gc
import hashlib
import json
import re
from collections import Counter, defaultdict
from pathlib import Path

import diffusers  # before the checkout puts its own ahead of the installed one
import pytest
import torch
from diffusers.utils.torch_utils import unwrap_module
from support import tiny
from torch import nn

from lavieid_adapters import TAM, LocalRouter, attach, attach_lavieid
from lavieid_adapters.hosts.host import token_width
from lavieid_adapters.hosts.host_table import HOSTS, find_host
from lavieid_adapters.hosts.pipeline import HostPipeline
from lavieid_adapters.hosts.pipeline_table import PIPELINES, find_pipeline


def pytest_addoption(parser) -> None:
    parser.addoption("--adapters", choices=("none", "untrained", "trained"), default="untrained")
    parser.addoption("--outcomes", type=Path, help="the file of JSON that is written")


def pytest_configure(config) -> None:
    adapters, outcomes = Adapters(config.getoption("adapters") == "trained"), Outcomes()
    config.pluginmanager.register(outcomes)
    if config.getoption("adapters") != "none":
        adapters.__enter__()
        config.add_cleanup(adapters.__exit__)
    written = config.getoption("outcomes")
    config.add_cleanup(lambda: written.write_text(json.dumps({"tests": outcomes.tests, "counts": adapters.counts})))


class Adapters:
    """Within it, every host and pipeline that is built gets adapters with an identity.

    Attributes:
        counts: Calls of the routers and of TAM, and what they were attached to.
    """

    def __init__(self, trained: bool = False):
        self.counts: Counter[str] = Counter()
        self.trained = trained
        self._patch = pytest.MonkeyPatch()
        self._steered = False  # whether a router ran in the host's forward that is running
        self._building = 0  # depth of constructors and loaders, of which the outermost ends with a whole model

    def __enter__(self):
        for name in HOSTS:
            self._wrap(getattr(diffusers, name), "__init__", self._on_transformer)
        for name in PIPELINES:
            if "__init__" in vars(getattr(diffusers, name)):  # modular pipelines are built without their models
                self._wrap(getattr(diffusers, name), "__init__", self._on_pipeline)
        self._wrap(diffusers.ModelMixin, "from_pretrained", self._on_transformer)  # which begins with weights on "meta"
        self._count(LocalRouter, "apply_folded", "router forwards")
        self._count(TAM, "refine", "TAM refinements")
        self._hook = nn.modules.module.register_module_forward_hook(self._after_forward)
        return self

    def __exit__(self, *_) -> None:
        self._hook.remove()
        self._patch.undo()

    def _wrap(self, cls: type, name: str, attach_to) -> None:
        function = cls.__dict__[name]
        loads, function = isinstance(function, classmethod), getattr(function, "__func__", function)

        @functools.wraps(function)
        def wrapped(instance, *args, **kwargs):
            self._building += 1
            try:
                result = function(instance, *args, **kwargs)
            finally:
                self._building -= 1
            if not self._building:
                built = (result[0] if isinstance(result, tuple) else result) if loads else instance
                with torch.random.fork_rng(devices=()), torch.device("cpu"):
                    attach_to(built)
            return result

        self._patch.setattr(cls, name, classmethod(wrapped) if loads else wrapped)

    def _count(self, cls: type, name: str, what: str) -> None:
        function = getattr(cls, name)

        @functools.wraps(function)
        def counted(*args, **kwargs):
            self.counts[what] += 1
            self._steered |= cls is LocalRouter
            return function(*args, **kwargs)

        self._patch.setattr(cls, name, counted)

    def _after_forward(self, module: nn.Module, args, output) -> None:
        if type(module).__name__ in HOSTS:
            self.counts["host forwards"] += 1
            self.counts["host forwards without a router"] += not self._steered
            self._steered = False

    def _router(self, transformer: nn.Module) -> LocalRouter:
        make = tiny.router if self.trained else tiny.untrained_router
        return make(dim=token_width(transformer, find_host(transformer)))

    def _on_transformer(self, model: nn.Module) -> None:
        if not any(cls.__name__ in HOSTS for cls in type(model).__mro__):
            return
        attach(self._router(model), model).set_tokens(tiny.tokens())
        self.counts["transformers"] += 1

    def _on_pipeline(self, pipe) -> None:
        pipeline = HostPipeline(pipe, find_pipeline(pipe))
        try:
            transformer = pipeline.transformers[0]
        except ValueError:  # one that was built to encode prompts or to decode alone
            return
        adapters = [self._router(unwrap_module(transformer))]
        if pipeline.decoders:
            make = tiny.tam if self.trained else tiny.untrained_tam
            adapters.append(make(latent_channels=pipeline.latent_channels, layout=pipeline.description.layout))
        attach_lavieid(pipe, adapters).set_identity(tiny.tokens())
        self.counts["pipelines"] += 1


class Outcomes:
    """A plugin of pytest that notes what became of each test: its outcome, its message, and a digest of its numbers."""

    def __init__(self):
        self.tests: dict[str, dict[str, str]] = defaultdict(lambda: {"outcome": "passed", "message": "", "numbers": ""})
        self._digest = hashlib.sha1()

    def pytest_collection_finish(self) -> None:
        gc.collect()
        gc.freeze()  # the tests collect garbage before and after each, which all that is imported would make slow

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item):
        self._digest = hashlib.sha1()
        torch.manual_seed(0)
        hook = nn.modules.module.register_module_forward_hook(self.note)
        try:
            return (yield)
        finally:
            hook.remove()
            self.tests[item.nodeid]["numbers"] = self.digest()

    def pytest_runtest_logreport(self, report) -> None:
        if report.passed:
            return
        test, crash = self.tests[report.nodeid], getattr(report.longrepr, "reprcrash", None)
        test["outcome"] = report.outcome
        if crash is not None:
            test["message"] = re.sub(r"0x[0-9a-f]+|/tmp/\S+", "…", crash.message)

    def pytest_collectreport(self, report) -> None:
        if report.failed:
            self.tests[report.nodeid].update(outcome="failed", message="cannot be collected")

    def digest(self) -> str:
        """Of all that was noted in this test."""
        return self._digest.hexdigest()

    def note(self, module: nn.Module, args, output) -> None:
        """A hook on all modules: takes in what a host or a VAE's decoder gives."""
        if type(module).__name__ not in HOSTS and "Decoder" not in type(module).__name__:
            return
        for tensor in (
            output.values() if isinstance(output, dict) else output if isinstance(output, tuple) else [output]
        ):
            if isinstance(tensor, torch.Tensor) and not tensor.is_meta:
                self._digest.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
