"""What the documents promise: examples run, messages are what is said, names and links exist."""

import contextlib
import functools
import io
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import parameterized

import jax_flash_mla as fm
from jax_flash_mla import _validation as validation
from jax_flash_mla import sharding

ROOT = Path(__file__).parent.parent


def code_blocks(name, language):
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / name).read_text(), flags=re.S)


class ReadmeTest(parameterized.TestCase):
    def test_example(self):
        (example,) = code_blocks("README.md", "python")
        self.assertLessEqual(len([line for line in example.splitlines() if line.strip()]), 15)
        names = {}
        exec(example, names)
        cache, out = names["cache"], names["out"]
        self.assertEqual((out.shape, str(out.dtype)), ((2, 1, 128, 512), "bfloat16"))
        # The first request sees its one new token, so that its values come out again.
        token = np.asarray(cache[0, 0, 0, :512], np.float32)
        np.testing.assert_array_equal(np.asarray(out[0, 0, 0], np.float32), token)
        np.testing.assert_array_equal(token, np.asarray(names["latent"][0], np.float32))
        self.assertTrue(np.isfinite(np.asarray(out, np.float32)).all())

    def test_walkthrough(self):
        """Block after block, as a reader would type them."""
        names = {}
        blocks = code_blocks("docs/walkthrough.md", "python")
        with contextlib.redirect_stdout(io.StringIO()) as out:
            for block in blocks:
                exec(block, names)
        self.assertIn("xla" if jax.default_backend() == "cpu" else "'", out.getvalue())
        # Every section but the last has one.
        headings = re.findall(r"^## .*$", (ROOT / "docs/walkthrough.md").read_text(), flags=re.M)
        self.assertGreaterEqual(len(blocks), len(headings) - 1)

    def test_port_of_a_step(self):
        """What coming from FlashMLA shows runs, and attends to the tokens that it writes."""
        step = next(block for block in code_blocks("docs/from_flashmla.md", "python") if "def step" in block)
        names = dict(vars(fm), functools=functools, jax=jax, jnp=jnp)
        exec(step, names)
        rng = np.random.default_rng(0)
        layers, b, h = 2, 2, 4
        caches = [jnp.zeros((4, 64, 1, 576), jnp.bfloat16) for _ in range(layers)]
        q, latent, rope = (
            jnp.asarray(rng.standard_normal(shape), jnp.bfloat16)
            for shape in ((layers, b, 1, h, 576), (layers, b, 1, 512), (layers, b, 1, 64))
        )
        table, lengths = jnp.array([[2, 0], [1, 3]], jnp.int32), jnp.ones(b, jnp.int32)
        _, outs = names["step"](caches, q, latent, rope, table, lengths)
        for i in range(layers):
            np.testing.assert_array_equal(outs[i], jnp.broadcast_to(latent[i][:, :, None], (b, 1, h, 512)))

    def test_ring_attention(self):
        """The example gives what one device gives, in the order of the sequence."""
        names = {}
        exec(next(block for block in code_blocks("docs/transformations.md", "python") if "to_zigzag" in block), names)
        want = fm.flash_attn_func(names["q"], names["k"], names["v"], causal=True)
        for got, one_device in zip((names["out"], names["lse"]), want, strict=True):
            np.testing.assert_allclose(got, one_device, atol=2e-5)

    def test_troubleshooting_quotes_what_is_said(self):
        """Each fixed part of a quoted message stands in a source file."""
        sources = "".join(path.read_text() for path in (ROOT / "jax_flash_mla").rglob("*.py"))
        sources += "".join(f"must be {validation._either(kinds)}" for kinds in (validation.FLOATS, validation.INT32))
        sources = re.sub(r'"\s*\n\s*f?"', "", sources).replace('\\"', '"')
        page = (ROOT / "docs/troubleshooting.md").read_text()
        quoted = re.findall(r"^\| `([^`]+)`", page.partition("## Results")[0], flags=re.M)
        self.assertGreater(len(quoted), 30)
        for message in quoted:
            if message.startswith(("No module named", "FAILED_PRECONDITION")):
                continue  # Python's own, and XLA's
            for part in re.split(r"[…\[\],()]", message):
                if len(part.strip()) > 8:
                    self.assertTrue(part.strip() in sources, message)

    def test_every_public_name_is_documented(self):
        text = (ROOT / "README.md").read_text() + (ROOT / "docs/api.md").read_text()
        text += (ROOT / "docs/transformations.md").read_text()
        for name in (*fm.__all__, *sharding.__all__):
            if name not in ("flash_attn_varlen_kvpacked_func", "flash_attn_varlen_qkvpacked_func", "build_info"):
                self.assertIn(name, text)

    def test_links_lead_somewhere(self):
        for path in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
            for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", path.read_text()):
                if "://" not in target:
                    self.assertTrue((path.parent / target).exists(), f"{path.name}: {target}")

    def test_supports_example(self):
        text = (ROOT / "docs/api.md").read_text()
        call, answer = re.search(r">>> (supports\(.*\))\n'(.*)'", text).groups()
        self.assertEqual(eval(call, {"supports": fm.supports}), answer)

    def test_tree_of_the_design_page(self):
        """Every module that the page names is there, and every module there is named."""
        page = (ROOT / "docs/design.md").read_text()
        for folder in ("jax_flash_mla", "jax_flash_mla/reference"):
            for path in (ROOT / folder).glob("*.py"):
                if path.stem not in ("__init__", "__main__", "_build", "_kv_cache_format"):
                    self.assertIn(path.name, page)
