"""Instruction data: questions and answers about faces, written, read and asked for."""
