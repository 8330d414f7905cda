"""tempering"""
