"""Training of what the conditioning sees drawn people by: FaceNet, and the vision model of the components."""

# b batch · m components · s side of a component's image

import torch
import torch.nn.functional as F
from augment import geometric, photometric
from crops import component_crops
from figures import (
    COMPONENT_OF,
    STYLE_COMPONENT_OF,
    ArcFace,
    accuracy,
    intersection_over_union,
    trait_figures,
    verification,
)
from phase import Setting
from pools import Pool, cast, photos_of
from timed import train
from torch import Tensor, nn
from transformers import CLIPImageProcessor, CLIPVisionModelWithProjection

from lavieid_adapters.models.identity import FACIAL_COMPONENTS
from lavieid_adapters.puppets.networks import to_network
from lavieid_adapters.puppets.sight.face_net import FaceNet, vision_config
from lavieid_adapters.puppets.world.draw import PHOTO_SIZE
from lavieid_adapters.puppets.world.person import PARAMETERS, STYLES, People

TRAINED_ON, TESTED_ON = 450_000, 1_020_000
_SEED, _TEST_SEED = 1 << 34, 1 << 42
# What the face reader gives FaceNet: photos, and faces brought to one size and upright. Some show nobody.
_FRAMING = {"shift": 0.12, "zoom": (0.55, 1.3), "angle": 20.0}
_AWAY = 0.04


class SightData:
    """What both learn from: photos alone, of other people than the judges know."""

    def __init__(self, setting: Setting):
        sizes, self.setting = setting.sizes, setting
        self.crowd = cast(range(TRAINED_ON, TRAINED_ON + sizes.people), setting.device)
        self.unseen = cast(range(TESTED_ON, TESTED_ON + sizes.test), setting.device)
        draw = photos_of(self.crowd, sizes.photos, _SEED, compiled=setting.compiled)
        self.photos = Pool(draw, max(1, 3 * sizes.people // sizes.photos))
        # Two photos of each unseen person.
        self.tests = [photos_of(self.unseen, sizes.test, _TEST_SEED)(chunk) for chunk in range(2)]

    def fill(self, deadline: float) -> None:
        self.photos.fill(deadline)
        print(f"sight: {len(self.photos)} photos drawn", flush=True)

    def refresh(self, step: int) -> None:
        if step % self.setting.sizes.refresh == self.setting.sizes.refresh - 1:
            self.photos.draw()


def train_face(data: SightData, deadline: float) -> dict:
    setting, sizes = data.setting, data.setting.sizes
    model = setting.ready(FaceNet())
    arcface = ArcFace(sizes.people, model.config.dim).to(setting.device)
    look = setting.fast(model)
    batch_size = max(8, sizes.batch // 2)

    def loss_of(step: int) -> Tensor:
        data.refresh(step)
        batch = data.photos.sample(batch_size)
        images, maps = geometric(to_network(batch["images"], PHOTO_SIZE), batch["maps"], away=_AWAY, **_FRAMING)
        images = photometric(images).contiguous(memory_format=torch.channels_last)
        with setting.autocast():
            logits, embeddings = look(images)
        seen = (maps > 0).flatten(1).any(dim=1).float()
        return F.cross_entropy(logits, maps.long()) + 0.1 * arcface(embeddings, batch["person"], seen)

    steps, each = train("face", [*model.parameters(), *arcface.parameters()], loss_of, deadline, 3e-3)
    setting.keep(model, "face")
    looked = []
    with torch.no_grad():
        for test in data.tests:
            parts = [model(to_network(part, PHOTO_SIZE)) for part in test["images"].split(128)]
            maps = torch.cat([logits.argmax(dim=1).to(torch.uint8) for logits, _ in parts])
            looked.append((maps, F.normalize(torch.cat([embedding for _, embedding in parts]), dim=1)))
    true = torch.cat([test["maps"] for test in data.tests])
    return {
        "steps": steps,
        "seconds_a_step": each,
        "images": steps * batch_size,
        "iou": intersection_over_union(torch.cat([maps for maps, _ in looked]), true),
        "photo_against_photo": verification(looked[0][1], looked[1][1], data.tests[1]["person"]),
    }


class Heads(nn.Module):
    """Linear readings of a component's parameters and styles, of its own embedding and of its feature maps; they only
    teach the vision model, and are thrown away."""

    def __init__(self, widths: tuple[int, ...]):
        super().__init__()
        self.columns = [[i for i, p in enumerate(PARAMETERS) if p.component == name] for name in FACIAL_COMPONENTS]
        self.styles = [[i for i, s in enumerate(STYLES) if s.component == name] for name in FACIAL_COMPONENTS]
        self.sizes = [
            [len(columns), *(len(STYLES[i].choices) for i in styles)]
            for columns, styles in zip(self.columns, self.styles, strict=True)
        ]
        self.heads = nn.ModuleList(
            nn.ModuleList(nn.Linear(width, sum(sizes)) for sizes in self.sizes) for width in widths
        )

    def forward(self, level: int, features: Tensor) -> tuple[Tensor, list[Tensor]]:
        """From features (b, m, c) to values (b, p) and the logits of each style."""
        values: list[Tensor | None] = [None] * len(PARAMETERS)
        styles: list[Tensor | None] = [None] * len(STYLES)
        for i, head in enumerate(self.heads[level]):
            first, *rest = head(features[:, i].float()).split(self.sizes[i], dim=1)
            for column, value in zip(self.columns[i], first.unbind(1), strict=True):
                values[column] = value
            for column, logits in zip(self.styles[i], rest, strict=True):
                styles[column] = logits
        return torch.stack(values, dim=1), styles


def train_vision(data: SightData, deadline: float) -> dict:
    setting, sizes = data.setting, data.setting.sizes
    processor = CLIPImageProcessor(size={"shortest_edge": 48}, crop_size={"height": 48, "width": 48})
    mean, std = (
        torch.tensor(statistic, device=setting.device)[:, None, None]
        for statistic in (processor.image_mean, processor.image_std)
    )
    config = vision_config()
    model = CLIPVisionModelWithProjection(config).to(setting.device).train()
    heads = Heads((config.projection_dim, config.hidden_size, config.hidden_size)).to(setting.device)

    def features(images: Tensor, maps: Tensor) -> tuple[list[Tensor], Tensor]:
        """The embedding and the means of two feature maps, those that condition the encoder, of each component."""
        crops, visible = component_crops((images + 1) * 127.5, maps, config.image_size)
        pixels = ((crops / 255 - mean) / std).flatten(0, 1)
        with setting.autocast():
            out = model(pixels, output_hidden_states=True)
        levels = [out.image_embeds, *(out.hidden_states[depth][:, 1:].mean(dim=1) for depth in (1, 2))]
        return [level.unflatten(0, (-1, len(FACIAL_COMPONENTS))) for level in levels], visible

    def loss_of(step: int) -> Tensor:
        data.refresh(step)
        batch = data.photos.sample(max(8, sizes.batch // 2))
        images, maps = geometric(
            to_network(batch["images"], PHOTO_SIZE), batch["maps"], shift=0.02, zoom=(0.85, 1.15), angle=8.0
        )
        people = data.crowd[batch["person"]]
        levels, visible = features(photometric(images, 0.5), maps)
        visible, loss = visible.float(), 0.0
        counted = visible[:, COMPONENT_OF]
        for level, weight in enumerate((1.0, 0.3, 0.5)):
            values, styles = heads(level, levels[level])
            # Centred, so that a reading starts with the error of a constant; in units of the values' spread.
            wrong = 12 * (values + 0.5 - people.values) ** 2
            loss = loss + weight * (wrong * counted).sum() / counted.sum().clamp(min=1)
            for i, logits in enumerate(styles):
                each = F.cross_entropy(logits, people.styles[:, i], reduction="none")
                loss = loss + 0.2 * weight * (each * visible[:, STYLE_COMPONENT_OF[i]]).mean()
        return loss

    steps, each = train("vision", [*model.parameters(), *heads.parameters()], loss_of, deadline, 1.5e-3)
    setting.keep(model, "vision")
    processor.save_pretrained(setting.out / "vision")
    report = {"steps": steps, "seconds_a_step": each, "images": steps * max(8, sizes.batch // 2)}
    return {**report, **_vision_figures(features, heads.eval(), data.tests[0], data.unseen)}


@torch.no_grad()
def _vision_figures(features, heads: Heads, test: dict[str, Tensor], unseen: People) -> dict:
    people = unseen[test["person"]]
    read, visible = [], []
    for images, maps in zip(test["images"].split(128), test["maps"].split(128), strict=True):
        levels, shown = features(to_network(images, PHOTO_SIZE), maps)
        read.append([heads(level, levels[level]) for level in range(len(levels))])
        visible.append(shown)
    visible = torch.cat(visible)
    figures = {}
    for level, name in enumerate(("embedding", "feature_map_1", "feature_map_2")):
        values = torch.cat([part[level][0] for part in read]) + 0.5
        styles = [torch.cat([part[level][1][i] for part in read]) for i in range(len(STYLES))]
        figures[name] = {
            "traits": trait_figures(values, people.values, visible),
            "styles": {
                style.name: accuracy(styles[i], people.styles[:, i], visible[:, STYLE_COMPONENT_OF[i]])
                for i, style in enumerate(STYLES)
            },
        }
    return figures
