"""What the documents promise: the README's example runs, and names what exists."""

import re
from pathlib import Path

import numpy as np
from absl.testing import parameterized

import jax_flash_mla as fm

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

    def test_every_public_name_is_documented(self):
        text = (ROOT / "README.md").read_text() + (ROOT / "docs/api.md").read_text()
        text += (ROOT / "docs/transformations.md").read_text()
        for name in fm.__all__:
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
