package stream

type PublishError struct{ Outcomes []error }

func (e *PublishError) Error() string   { return e.Outcomes[0].Error() }
func (e *PublishError) Unwrap() []error { return e.Outcomes }
