"""A stand-in for Alma, PeopleSoft Student Financials and an SFTP server. It is not any of them.

It keeps its own books of what every fee and every charge is worth, reads the SFS files by the
layout's declaration alone and shares no code with the package it tests, so that its books can
contradict that package.
"""
