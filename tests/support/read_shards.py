"""A dataset that other processes read shards by: they import it by name, which they cannot with a file of tests."""

import os

from torch.utils.data import Dataset


class Read(Dataset):
    def __init__(self, shards):
        self.shards = shards

    def __len__(self):
        return len(self.shards)

    def __getitem__(self, i):
        return len(self.shards.members(i)["maps.png"]), os.getpid()
