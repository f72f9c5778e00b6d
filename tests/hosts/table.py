"""The table of hosts, in Markdown: `python tests/hosts/table.py` prints what stands in the README."""

from lavieid_adapters.host_pipelines import NOT_PIPELINES, PIPELINES
from lavieid_adapters.hosts import HOSTS, NOT_HOSTS


def rows() -> list[dict[str, str]]:
    """What is supported, one row a transformer: "transformer", "pipelines", "blocks", "guidance" and "TAM"."""
    made = []
    for name, host in HOSTS.items():
        found = {key: value for key, value in PIPELINES.items() if value.transformer == name}
        kind = next(iter(found.values()))
        guidance = {1: "a call each", 2: "one batch"}.get(kind.passes, "up to three calls")
        blocks = (host.blocks,) if isinstance(host.blocks, str) else host.blocks
        row = {"transformer": name, "pipelines": ", ".join(found), "blocks": ", ".join(blocks)}
        made.append({**row, "guidance": guidance, "TAM": kind.seam})
    return made


def markdown() -> str:
    head = ["transformer", "pipelines", "block lists", "guidance", "TAM acts in"]
    lines = [head, ["---"] * len(head)]
    for row in rows():
        pipelines = row["pipelines"].replace("Pipeline,", ",").removesuffix("Pipeline")
        blocks, seam = (", ".join(f"`{name}`" for name in row[key].split(", ")) for key in ("blocks", "TAM"))
        lines.append([row["transformer"].removesuffix("Transformer3DModel"), pipelines, blocks, row["guidance"], seam])
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def left_out() -> str:
    """The transformers that are refused, and the pipelines that are although their transformers are hosts."""
    pipelines = {name: reason for name, reason in NOT_PIPELINES.items() if "not supported" not in reason}
    return "\n".join(f"- `{name}`: {reason}." for name, reason in {**NOT_HOSTS, **pipelines}.items())


if __name__ == "__main__":
    print(markdown(), left_out(), sep="\n\n")
