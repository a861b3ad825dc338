"""A file cannot say CcInfo = CcInfo; two files can."""

BuiltinCcInfo = CcInfo
