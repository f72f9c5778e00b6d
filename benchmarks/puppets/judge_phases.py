"""Training of the judges: who it is, what a frame shows, and what happens in a clip."""

# b batch · f frames · m components

import torch
import torch.nn.functional as F
from augment import geometric, photometric
from figures import (
    COMPONENT_OF,
    STYLE_COMPONENT_OF,
    ArcFace,
    accuracy,
    intersection_over_union,
    trait_figures,
    verification,
)
from phase import Setting, until
from pools import Pool, cast, frames_of, photos_of
from timed import train
from torch import Tensor

from lavieid_adapters.puppets.judges.analyst import Analysis, Analyst
from lavieid_adapters.puppets.judges.judges import MIN_VISIBLE, has_face, shares
from lavieid_adapters.puppets.judges.motion_reader import MotionReader
from lavieid_adapters.puppets.judges.recognizer import Recognizer
from lavieid_adapters.puppets.networks import to_network
from lavieid_adapters.puppets.world.draw import FRAMES, SIZE
from lavieid_adapters.puppets.world.person import STYLES, People

# The conditioning's networks learn from other people and other drawings; the published evaluation uses others again.
TRAINED_ON, TESTED_ON = 0, 1_010_000
_TEST_SEED = 1 << 40
_SMALL = torch.tensor([1.0, 2.0, 2.0, 2.0, 2.0, 1.0, 1.0])  # classes of few pixels count double


class JudgeData:
    """What the judges learn from, drawn once for all three, and what they are tested on."""

    def __init__(self, setting: Setting):
        s = self.setting = setting
        sizes, device = s.sizes, s.device
        self.crowd = cast(range(TRAINED_ON, TRAINED_ON + sizes.people), device)
        self.unseen = cast(range(TESTED_ON, TESTED_ON + sizes.test), device)
        drawing = frames_of(self.crowd, sizes.clips, sizes.frames, s.vae, compiled=s.compiled)
        self.frames = Pool(drawing, sizes.chunks)
        # Another stream of seeds than the clips': a person's photo and clip have nothing in common but the person.
        photos = photos_of(self.crowd, sizes.photos, 1 << 32, compiled=s.compiled)
        self.photos = Pool(photos, max(1, 2 * sizes.people // sizes.photos))
        self._tests: dict[str, dict[str, Tensor]] = {}

    def fill(self, deadline: float) -> None:
        self.frames.fill(until(0.75, deadline))
        self.photos.fill(deadline)
        print(f"judges: {len(self.frames)} frames and {len(self.photos)} photos drawn", flush=True)

    def refresh(self, step: int) -> None:
        if step % self.setting.sizes.refresh == self.setting.sizes.refresh - 1:
            self.frames.draw()

    def tests(self) -> dict[str, dict[str, Tensor]]:
        """Frames of unseen people, as they are drawn and, if there is a VAE, as it gives them back."""
        if not self._tests:
            sizes = self.setting.sizes
            for name, vae in self.setting.tested.items():
                some = min(sizes.clips, sizes.test)
                draw = frames_of(self.unseen, some, sizes.frames, vae, _TEST_SEED, share=1)
                parts = [draw(chunk) for chunk in range(sizes.test // some)]
                self._tests[name] = {k: torch.cat([part[k] for part in parts]) for k in parts[0]}
        return self._tests


def train_recognizer(data: JudgeData, deadline: float) -> dict:
    setting, sizes = data.setting, data.setting.sizes
    model = setting.ready(Recognizer())
    arcface = ArcFace(sizes.people, model.config.dim).to(setting.device)
    embed = setting.fast(model)

    def loss_of(step: int) -> Tensor:
        data.refresh(step)
        frames, photos = data.frames.sample(sizes.batch - sizes.batch // 3), data.photos.sample(sizes.batch // 3)
        images = torch.cat([to_network(frames["images"], SIZE), to_network(photos["images"], SIZE)])
        images = photometric(geometric(images)[0]).contiguous(memory_format=torch.channels_last)
        with setting.autocast():
            embeddings = embed(images)
        return arcface(embeddings, torch.cat([frames["person"], photos["person"]]))

    steps, each = train("recognizer", [*model.parameters(), *arcface.parameters()], loss_of, deadline, 3e-3)
    setting.keep(model, "recognizer")
    photos = photos_of(data.unseen, sizes.test, 1 << 41)(0)["images"]
    report = {"steps": steps, "seconds_a_step": each, "images": steps * sizes.batch}
    references = _in_parts(lambda x: model(to_network(x, SIZE)), photos)
    for name, test in data.tests().items():
        queries = _in_parts(lambda x: model(to_network(x, SIZE)), test["images"])
        report[name] = verification(references, queries, test["person"])
    return report


def train_analyst(data: JudgeData, deadline: float) -> dict:
    setting, sizes = data.setting, data.setting.sizes
    model = setting.ready(Analyst())
    read = setting.fast(model)

    def loss_of(step: int) -> Tensor:
        data.refresh(step)
        batch = data.frames.sample(sizes.batch)
        images = photometric(to_network(batch["images"], SIZE)).contiguous(memory_format=torch.channels_last)
        with setting.autocast():
            analysis = read(images)
        return analyst_loss(analysis, batch, data.crowd[batch["person"]])

    steps, each = train("analyst", model.parameters(), loss_of, deadline, 3e-3)
    model.eval()
    some = to_network(data.frames.sample(16 * sizes.batch)["images"], SIZE)
    model.standardise(*_in_parts(lambda x: _pair(model(x)), some).unbind(1))
    setting.keep(model, "analyst")
    report = {"steps": steps, "seconds_a_step": each, "images": steps * sizes.batch}
    for name, test in data.tests().items():
        report[name] = analyst_figures(model, test, data.unseen)
    return report


def _pair(analysis: Analysis) -> Tensor:
    return torch.stack([analysis.subject, analysis.background], dim=1)


def analyst_loss(analysis: Analysis, batch: dict[str, Tensor], people: People) -> Tensor:
    """Of what the analyst reads in frames, of which it is known what they show."""
    maps = batch["maps"]
    visible = (shares(maps) >= MIN_VISIBLE).float()
    loss = F.cross_entropy(analysis.maps, maps.long(), weight=_SMALL.to(maps.device))
    counted = visible[:, COMPONENT_OF]
    loss = loss + 4 * ((analysis.values - people.values).abs() * counted).sum() / counted.sum().clamp(min=1)
    for i, logits in enumerate(analysis.styles):
        each = F.cross_entropy(logits, people.styles[:, i], reduction="none")
        loss = loss + 0.1 * (each * visible[:, STYLE_COMPONENT_OF[i]]).mean()
    loss = loss + 0.2 * F.cross_entropy(analysis.scene, batch["prompts"][:, 0])
    loss = loss + 0.2 * F.cross_entropy(analysis.expression, batch["prompts"][:, 2])
    return loss + 4 * F.l1_loss(analysis.pose, batch["pose"])


@torch.no_grad()
def analyst_figures(model: Analyst, test: dict[str, Tensor], unseen: People) -> dict:
    """Its errors on unseen people."""
    read = [model(to_network(part, SIZE)) for part in test["images"].split(256)]
    people = unseen[test["person"]]
    visible = shares(test["maps"]) >= MIN_VISIBLE
    maps = torch.cat([part.maps.argmax(dim=1).to(torch.uint8) for part in read])
    pose = torch.cat([part.pose for part in read])
    styles = [torch.cat([part.styles[i] for part in read]) for i in range(len(STYLES))]
    names = ("yaw", "pitch", "roll", "x", "y", "distance")
    return {
        "iou": intersection_over_union(maps, test["maps"]),
        "faces_found": has_face(maps).double().mean().item(),
        "traits": trait_figures(torch.cat([part.values for part in read]), people.values, visible),
        "styles": {
            style.name: accuracy(styles[i], people.styles[:, i], visible[:, STYLE_COMPONENT_OF[i]])
            for i, style in enumerate(STYLES)
        },
        "scene": accuracy(torch.cat([part.scene for part in read]), test["prompts"][:, 0]),
        "expression": accuracy(torch.cat([part.expression for part in read]), test["prompts"][:, 2]),
        "pose_error": dict(zip(names, (pose - test["pose"]).abs().mean(0).tolist(), strict=True)),
    }


def train_motion(data: JudgeData, deadline: float) -> dict:
    setting, sizes = data.setting, data.setting.sizes
    analyst = Analyst.from_pretrained(setting.out / "analyst", torch_dtype=torch.float32).to(setting.device).eval()

    def sequences(crowd: People, seed: int, vae, share: int = 3):
        draw = frames_of(crowd, min(sizes.clips, len(crowd)), FRAMES, vae, seed, setting.compiled, share)

        def drawn(chunk: int) -> dict[str, Tensor]:
            clips = draw(chunk)
            with torch.no_grad():
                read = [analyst(to_network(part, SIZE)) for part in clips["images"].split(1024)]
            f = {name: torch.cat([getattr(part, name) for part in read]) for name in ("pose", "signs")}
            f = {name: value.unflatten(0, (-1, FRAMES)) for name, value in f.items()}
            return {**f, "motion": clips["prompts"][::FRAMES, 1]}

        return drawn

    chunks = max(1, sizes.sequences // sizes.clips)
    pool = Pool(sequences(data.crowd, 1 << 33, setting.vae), chunks).fill(until(0.7, deadline))
    print(f"motion: {len(pool)} clips read", flush=True)
    model = MotionReader(analyst.num_signs).to(setting.device)

    def loss_of(step: int) -> Tensor:
        batch = pool.sample(256)
        noise = (0.01 * torch.randn_like(batch["pose"]), 0.02 * torch.randn_like(batch["signs"]))
        return F.cross_entropy(model(batch["pose"] + noise[0], batch["signs"] + noise[1]), batch["motion"])

    steps, each = train("motion", model.parameters(), loss_of, deadline, 3e-3)
    setting.keep(model, "motion")
    report = {"steps": steps, "seconds_a_step": each, "clips": len(pool)}
    for name, vae in setting.tested.items():
        tests = sequences(data.unseen, _TEST_SEED, vae, share=1)
        parts = [tests(chunk) for chunk in range(sizes.test // min(sizes.clips, sizes.test))]
        with torch.no_grad():
            logits = torch.cat([model(part["pose"], part["signs"]) for part in parts])
        report[name] = {"accuracy": accuracy(logits, torch.cat([part["motion"] for part in parts]))}
    return report


@torch.no_grad()
def _in_parts(function, images: Tensor, size: int = 512) -> Tensor:
    return torch.cat([function(part) for part in images.split(size)])
