// Package javatest tests package stream beside RabbitMQ's Java client. Its tests
// need a JDK and Maven, so they have the build tag java: "make test-java" runs
// them.
package javatest
