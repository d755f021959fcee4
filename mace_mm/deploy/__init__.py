"""Where saved systems look for `FormSource`; the code is in `mace_mm.evaluate.form_source`."""
