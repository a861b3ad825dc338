"""CcInfo under the label of rules_cc."""

load(":builtin.bzl", "BuiltinCcInfo")

CcInfo = BuiltinCcInfo
