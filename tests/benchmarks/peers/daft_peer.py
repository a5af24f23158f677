"""Daft (native runner): read, decode, perceptual hash, if asked resize to 256 and encode, and write parquet."""

import json
import resource
import sys
import tempfile
import time


def cpu() -> float:
    return sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


if __name__ == "__main__":
    import daft
    from daft import col

    folder, how = sys.argv[1:]
    daft.set_runner_native()
    before, began = cpu(), time.perf_counter()
    frame = daft.from_glob_path(f"{folder}/*.jpg")
    frame = frame.with_column("image", col("path").download().decode_image(mode="RGB"))
    frame = frame.with_column("phash", col("image").image_hash(method="phash"))
    if how == "resize":
        frame = frame.with_column("small", col("image").resize(256, 256).encode_image("jpeg"))
    frame.exclude("image").write_parquet(tempfile.mkdtemp())
    print(json.dumps({"seconds": time.perf_counter() - began, "cpu_seconds": cpu() - before}))
