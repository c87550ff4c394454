# Copyright 2026 The hf_tc authors. Licensed under the Apache License, Version 2.0.
"""Teachers: which can be converted, how they are loaded, and the student that is built around one."""

from hf_tc.teachers.checks import UnreviewedTeacherError, check_teacher, load_teacher
from hf_tc.teachers.families import REFUSED_FAMILIES, REVIEWED_FAMILIES
from hf_tc.teachers.new_student import build_student
from hf_tc.teachers.parity import TeacherParityError, parity_self_check

__all__ = [
    "REFUSED_FAMILIES",
    "REVIEWED_FAMILIES",
    "TeacherParityError",
    "UnreviewedTeacherError",
    "build_student",
    "check_teacher",
    "load_teacher",
    "parity_self_check",
]
